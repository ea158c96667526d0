# SPDX-License-Identifier: GPL-2.0
"""What kernel CI does with the series: the commands of the documentation, on a tree made by make apply."""
import functools
import hashlib
import os
import re
import shlex
import sys
import threading

import series
import tree
import vm
from common import CACHE, LOGS, REPO, Failure, lock, remove_tree, replace_file, run, say, watch
from results import kunit_results
from runner import Skip, complaints

KSELFTEST = "make -C tools/testing/selftests TARGETS=devmem run_tests"
DOCS = REPO / "Documentation/gpu"
_applying, _building = threading.Lock(), threading.Lock()


def commands(pattern):
    """The commands of the documentation that match, with their continued lines."""
    text = "\n".join(f.read_text() for f in sorted(DOCS.glob("*.rst")))
    found = [" ".join(m[0].replace("\\\n", " ").split()) for m in
             re.finditer(rf"^[ \t]+{pattern}(?:.*\\\n)*.*$", text, re.M)]
    if not found:
        raise Failure(f"Documentation/gpu has no command like {pattern}")
    return sorted(set(found))


def kernel_sources():
    """A name for what the series is made of, and for its base."""
    seen = hashlib.sha1(str(tree.base()).encode())
    for patch in series.load():
        seen.update(patch.text().encode())
        for path in patch.new:
            seen.update((REPO / path).read_bytes())
    return seen.hexdigest()


def applied(name):
    """A tree that make apply has made of the base. What did not change since the last time keeps its age."""
    src, now = CACHE / "trees/applied/src", kernel_sources()
    stamp, ours = src.parent / f"{name}.sources", src.parent.with_name(f"{name}-{src.name}") / src.name
    with _applying:
        if stamp.exists() and stamp.read_text() == now and ours.is_dir():
            return ours
        lock()
        remove_tree(src)
        src.parent.mkdir(parents=True, exist_ok=True)
        say(f"make apply LINUX={src}")
        run(["cp", "-al", tree.base(), src])
        run(["make", "-C", REPO, "apply", f"LINUX={src}"])
        tree.make(src, name, {})
        replace_file(stamp, now.encode())
    return ours


def kunit():
    """The kunit.py commands, one after another in one build folder, as somebody would give them; with KCSAN."""
    src = applied("kunit")
    for command in commands(r"\./tools/testing/kunit/kunit\.py run --arch=x86_64"):
        slug = "kunit-" + re.search(r"--kunitconfig=(\S+)", command)[1].strip("/").replace("/", "-")
        log, console = LOGS / f"{slug}.log", src / ".kunit/test.log"
        console.unlink(missing_ok=True)
        say(command)
        status = watch(slug, [sys.executable, "-B", *shlex.split(command)], log, check=False, cwd=src)
        if not console.exists():
            raise Failure(f"'{command}' gave no result (status {status}), see {log}")
        text = console.read_text(errors="replace")
        for case, result in kunit_results(text):
            yield f"{slug}.{case}", Skip("not on this machine") if result == "SKIP" else "" if result == "PASS" \
                else result.lower(), log
        splat = next((line for line in text.splitlines() if vm.SPLAT.search(line) and "BUG: KCSAN: " not in line), "")
        yield slug, f"kunit.py: status {status}" if status else f"the kernel says: {splat}" if splat else "", log
        yield complaints(f"{slug}.races", set(races(text)))


RACE = "=" * 66


def races(console):
    """KCSAN's reports on code of the series: one of the two innermost functions on either side is ours."""
    ours = re.compile(r"pgmap_|devmem_|drm_pagemap|drm_gpusvm|gpu_buddy|dev_pagemap|memremap_pages|memunmap_pages|"
                      r"zone_device|hmm_|migrate_device|migrate_vma|poison_migration|mock_|race_")
    for report in console.split(RACE):
        if "BUG: KCSAN: " not in report:
            continue
        lines = [re.sub(r"^\[[ \d.]*\] *", "", line) for line in report.splitlines()]
        stacks = [i for i, line in enumerate(lines) if re.search(r"(read|write|marked|assert).* of \d+ bytes ", line)]
        if any(ours.search(line) for i in stacks for line in lines[i + 1:i + 3]):
            yield next(line for line in lines if "BUG: KCSAN: " in line)


def uml():
    """The partition, where there is no ZONE_DEVICE."""
    src = series.series_tree()
    build, log = src.parent / "kunit-uml", LOGS / "kunit-uml.log"
    build.mkdir(parents=True, exist_ok=True)
    (build / "test.log").unlink(missing_ok=True)
    status = watch("KUnit on UML", [
        sys.executable, "-B", "tools/testing/kunit/kunit.py", "run", "--arch=um", f"--jobs={os.cpu_count()}",
        f"--build_dir={build}", "--timeout=900", "--make_options", vm.make(src, build)[-1],
        "--kunitconfig=mm/tests/pgmap_partition.kunitconfig"], log, check=False, cwd=src)
    if not (build / "test.log").exists():
        raise Failure(f"kunit.py gave no result (status {status}), see {log}")
    text = (build / "test.log").read_text(errors="replace")
    for case, result in kunit_results(text):
        yield f"uml.{case}", "" if result == "PASS" else result.lower(), log
    splat = vm.SPLAT.search(text)
    yield "uml", f"kunit.py: status {status}" if status else f"the kernel says: {splat[0]}" if splat else "", log


@functools.lru_cache(None)
def kselftest_tree():
    """A tree in which the command for the selftests has only to run them: programs and headers are built."""
    if KSELFTEST not in commands("make -C tools/testing/selftests"):
        raise Failure(f"Documentation/gpu does not say: {KSELFTEST}")
    src = applied("kselftest")
    with _building:
        # Static, for guests that have nothing but these.
        watch("headers and selftests", ["sh", "-c", "make -s headers && make -s -j2 LDFLAGS=-static "
                                        "-C tools/testing/selftests TARGETS=devmem"],
              LOGS / "kselftest-build.log", cwd=src)
    return src


def program(name):
    """A program of the selftests."""
    return kselftest_tree() / "tools/testing/selftests/devmem" / name


def programs(lines):
    """program -> (ok, not ok or skip; its lines) of what run_tests prints."""
    found, now = {}, []
    for line in lines:
        end = re.match(r"(not ok|ok) \d+ selftests: \S+: (\S+)(.*)", line)
        if end:
            found[end[2]] = ("skip" if "# SKIP" in end[3] else end[1], now)
            now = []
        elif line.startswith("# "):
            now.append(line[2:])
    if not found:
        raise Failure("run_tests gave no result: " + " / ".join(lines[-3:]))
    return found
