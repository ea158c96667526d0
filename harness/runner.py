# SPDX-License-Identifier: GPL-2.0
"""Runs checks and counts what they find: a line per result, the seconds of each check, a last line.

A check is a function without arguments that yields (name, why, log). An empty why means that the
test passed, and a Skip that the machine lacks what the test needs. A test that skipped wherever it
was run has failed, and so has a check without results.
"""
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import threading
import time

import kernels
from common import CACHE, REPO, Failure, ending, replace_file, run, say

# A guest leaves much of two CPUs idle, and a build waits for its last file: two checks go side by side.
LANES = 2


class Skip(str):
    """Why a test has nothing to do on this machine; it has to run on another one."""


def complaints(name, wrong):
    """A result that lists what is wrong, a line each."""
    for line in sorted(wrong):
        print(f"  {line}")
    return name, f"{len(wrong)} complaints" if wrong else ""


def check_name(func):
    """The name under which the seconds of a check are shown."""
    if isinstance(func, functools.partial):
        return "-".join([check_name(func.func), *map(str, func.args)])
    return func.__name__.replace("_", "-")


class Report:
    """What the checks of one run have found. Results come from several threads."""

    def __init__(self):
        self.passed = self.failed = 0
        self.seconds, self.ran, self.skipped = {}, set(), {}
        self.lock = threading.Lock()

    def result(self, name, why, log=""):
        why, test = type(why)(why.replace("\n", " ")) if why else "", name.partition(".")[2] or name
        with self.lock:
            if isinstance(why, Skip):
                self.skipped.setdefault(test, (name, why, log))
                return
            self.ran.add(test)
            self.passed, self.failed = self.passed + (not why), self.failed + bool(why)
            print(f"FAIL {name} ({why}{'; ' if log else ''}{log})" if why else f"ok {name}", flush=True)

    def took(self, name, seconds):
        with self.lock:
            self.seconds[name] = seconds
        say(f"{name}: {int(seconds)} s")

    def skipped_everywhere(self):
        """Count tests that only skipped as failed; the set of their names."""
        never = {test: row for test, row in self.skipped.items() if test not in self.ran}
        for name, why, log in never.values():
            self.result(name, f"skipped in every guest: {why}", log)
        return {row[0] for row in never.values()}

    def end(self, start):
        """The last lines; whether anything failed."""
        say("the longest: " + ", ".join(
            f"{name} {int(self.seconds[name])} s"
            for name in sorted(self.seconds, key=self.seconds.get, reverse=True)[:10]))
        say(f"{int(time.monotonic() - start)} s")
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return self.failed > 0


def results_of(func):
    """The results of a check, one after another; how it failed is one of them."""
    name, seen = check_name(func), False
    try:
        for found in func():
            seen = True
            yield tuple(found)
        if not seen:
            yield name, "the check returned no result"
    except Failure as err:
        yield name, str(err)
    except Exception as err:  # pylint: disable=broad-except
        yield name, f"{type(err).__name__}: {err}"


class Journal:
    """Results of checks that are done, kept in the cache until a source changes; now names the sources."""

    def __init__(self, path=None, now=None):
        self.path, self.now, self.done = path, now, {}
        if path and path.exists():
            self.done = json.loads(path.read_text())
        self.lock = threading.Lock()

    def get(self, name):
        return self.done.get(name)

    def put(self, name, seconds, rows):
        """A check is repeated if one of its tests failed, or if it was interrupted."""
        if not self.path or ending() or any(row[1] and row[1][0] != "skip" for row in rows):
            return
        if sources() != self.now:
            say(f"{name}: not kept, as a file of the repository has changed since the run began")
            return
        with self.lock:
            self.done[name] = {"seconds": seconds, "rows": rows}
            self.save()

    def forget(self, tests):
        """Checks of which these are results are repeated."""
        kept = {name: entry for name, entry in self.done.items() if not any(row[0] in tests for row in entry["rows"])}
        if kept != self.done:
            self.done = kept
            self.save()

    def save(self):
        replace_file(self.path, json.dumps(self.done).encode())


def packed(row):
    """A result as JSON has it: its why is None, or what kind it is of and the words."""
    name, why, log = (*row, "")[:3]
    return [name, ["skip" if isinstance(why, Skip) else "why", why] if why else None, str(log)]


def unpacked(row):
    name, why, log = row
    return name, (Skip if why[0] == "skip" else str)(why[1]) if why else "", log


def run_one(func, report, journal):
    """Run one check, or take its results from the journal."""
    name, start = check_name(func), time.monotonic() - kernels.waited()
    before = journal.get(name)
    if before:
        say(f"{name}: {len(before['rows'])} results of an earlier run, which took {int(before['seconds'])} s")
        for row in before["rows"]:
            report.result(*unpacked(row))
        return
    rows = []
    for row in results_of(func):
        if ending():
            return
        report.result(*row)
        rows.append(packed(row))
    # What a kernel takes to be built is printed where it is built.
    seconds = time.monotonic() - kernels.waited() - start
    report.took(name, seconds)
    journal.put(name, seconds, rows)


def collect(funcs, journal):
    """Run checks in their order, some at a time."""
    report = Report()
    pool = concurrent.futures.ThreadPoolExecutor(LANES)
    try:
        for done in [pool.submit(run_one, func, report, journal) for func in funcs]:
            done.result()
    finally:
        # After ^C nobody waits here for a guest: main() ends it.
        pool.shutdown(wait=False, cancel_futures=True)
    journal.forget(report.skipped_everywhere())
    return report


def run_checks(funcs):
    """Run checks; whether anything failed."""
    start = time.monotonic()
    return collect(funcs, Journal()).end(start)


def sources():
    """A name for the state of this repository, and for what the user asks of the checks."""
    seen = hashlib.sha1(str([os.environ.get(name) for name in ("MINUTES", "CHANGES", "CYCLES", "SEED", "CC")]).encode())
    names = run(["git", "-C", REPO, "ls-files", "-z", "-c", "-o", "--exclude-standard"]).split("\0")
    for name in sorted(filter(None, names)):
        seen.update(name.encode() + b"\0")
        with contextlib.suppress(OSError):
            seen.update((REPO / name).read_bytes())
    return seen.hexdigest()[:16]


def journal_of(part, now):
    """The journal of a part of check-all for these sources; those of other sources are deleted."""
    if os.environ.get("LINUX"):     # a tree of the caller's may change at any time
        return Journal()
    folder = CACHE / "check-all"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{part}-*.json"):
        if old.name != f"{part}-{now}.json":
            old.unlink()
    return Journal(folder / f"{part}-{now}.json", now)


def run_parts(parts):
    """Run parts of check-all, one after another; the last line is the sum of all."""
    # Kernels and trees are made once for all parts: of the sources as they are now.
    total, start, now = Report(), time.monotonic(), sources()
    for part, funcs in parts.items():
        say(f"part {part}")
        begun = time.monotonic()
        report = collect(funcs, journal_of(part, now))
        total.passed, total.failed = total.passed + report.passed, total.failed + report.failed
        total.took(f"part {part}, {report.passed} passed, {report.failed} failed", time.monotonic() - begun)
    return total.end(start)
