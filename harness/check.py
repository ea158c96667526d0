#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The tests: one line per test, the last line counts them. A test that did not run has failed.

A check is a function that yields (name, reason, log); an empty reason means that it passed.
"""
import json
import os
import pathlib
import py_compile
import re
import subprocess
import sys
import tempfile
import time

import series
import tree
import vm
from common import CACHE, LOGS, REPO, Failure, lock, main, remove_tree, replace_file, run, say, watch

CHECKS = []
COUNT = {True: 0, False: 0}


def check(func):
    CHECKS.append(func)
    return func


def report(name, why, log=""):
    COUNT[not why] += 1
    print(f"FAIL {name} ({why}{'; ' if log else ''}{log})" if why else f"ok {name}", flush=True)


def run_checks(funcs):
    start = time.monotonic()
    for func in funcs:
        name = func.__name__.replace("_", "-")
        try:
            seen = False
            for result in func():
                seen = True
                report(*result)
            if not seen:
                report(name, "it tested nothing")
        except Failure as err:
            report(name, str(err).replace("\n", " "))
        except Exception as err:  # pylint: disable=broad-except
            report(name, f"{type(err).__name__}: {err}")
    say(f"{int(time.monotonic() - start)} s")
    print(f"{COUNT[True]} passed, {COUNT[False]} failed")
    return COUNT[False] > 0


_kernels = {}


def kernel(make):
    """A kernel is built once per run; one that can't be built fails each test that wants it."""
    if make not in _kernels:
        try:
            _kernels[make] = make()
        except Failure as err:
            _kernels[make] = err
    if isinstance(_kernels[make], Failure):
        raise _kernels[make]
    return _kernels[make]


def tap(lines):
    """test name -> 'ok', 'not ok' or 'skip', of one kselftest_harness program."""
    found = {}
    for line in lines:
        res = re.match(r"(ok|not ok) \d+ (?:- )?([^#\s]+)(.*)", line)
        if res:
            found[res[2]] = "skip" if re.search(r"# *SKIP", res[3]) else res[1]
    plan = next((int(m[1]) for m in (re.match(r"1\.\.(\d+)", l) for l in lines) if m), None)
    if plan != len(found) or not found:
        raise Failure(f"{len(found)} results of {plan} planned tests")
    return found


# ---- the checks of make check ----

@check
def lint():
    for file in sorted((REPO / "harness").glob("*.py")):
        try:
            py_compile.compile(str(file), cfile=os.devnull, doraise=True)
            yield f"lint.{file.name}", ""
        except py_compile.PyCompileError as err:
            yield f"lint.{file.name}", str(err)
    for file in sorted([*(REPO / "harness").glob("*.sh"), REPO / ".ci/run"]):
        run(["bash", "-n", file])
        yield f"lint.{file.name}", ""
    wrong = series.lint_static()
    yield "lint.series", "; ".join(wrong)
    src = tree.base(fetch=False)
    if src and not wrong:
        yield "lint.checkpatch", "; ".join(series.checkpatch(src))
    elif not src:
        say("no base in the cache: checkpatch was left out")


@check
def series_round_trip():
    """git am of the exported series on the untouched base gives the tree that is tested."""
    src, tested = tree.base(), tree.series_tree()
    over = series.overlay(src)
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        tmp = pathlib.Path(tmp)
        repo, out = tmp / "repo", tmp / "out"
        files = [f for f in series.export(src, out) if not f.name.startswith("0000-")]
        for path in [p for p in over if (src / p).exists()]:
            replace_file(repo / path, (src / path).read_bytes(), (src / path).stat().st_mode & 0o777)
        repo.mkdir(exist_ok=True)
        series.git(repo, "init", "-q")
        series.git(repo, "add", "-A", "-f")
        series.git(repo, "commit", "-q", "--allow-empty", "-m", "base", env=series.identity())
        if files:
            series.git(repo, "am", "-q", *files, env=series.identity())
        same = [p for p, want in over.items() if (repo / p).exists() == (tested / p).exists() and (
            not want or ((repo / p).read_bytes() == (tested / p).read_bytes() and
                         os.access(repo / p, os.X_OK) == os.access(tested / p, os.X_OK)))]
    differ = sorted(set(over) - set(same)) + [
        p for p in tree.files(src) if p not in over and not tree.identical(src / p, tested / p)]
    differ += [p for p in tree.files(tested) if p not in over and not os.path.lexists(src / p)
               and "__pycache__" not in p]
    yield "series-round-trip", "differ: " + ", ".join(differ[:10]) if differ else ""


def kunit(name, config, *args, arch="x86_64"):
    """Run kunit.py on a .kunitconfig of the series' tree; one result per case."""
    src = tree.series_tree()
    if not (src / config).exists():
        raise Failure(f"{config} is not in the series")
    build, log, out = CACHE / "build" / f"kunit-{name}-{src.name}", LOGS / f"kunit-{name}.log", \
        LOGS / f"kunit-{name}.json"
    build.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
    if arch != "um" and vm.accelerator(kernel(vm.plain_kernel)) != "kvm":
        # kunit.py asks for KVM first; where it hangs, or can't be used, QEMU must not see that.
        wrap = CACHE / "bin/qemu-system-x86_64"
        replace_file(wrap, b"""#!/bin/sh
for arg; do
	shift
	case $arg in kvm|hvf) arg=tcg;; esac
	set -- "$@" "$arg"
done
PATH=${PATH#*:} exec qemu-system-x86_64 -cpu max "$@"
""", 0o755)
        env["PATH"] = f"{wrap.parent}:{env['PATH']}"
    cc = vm.make(src, build)[-1]
    status = watch(f"KUnit {name}", [
        sys.executable, "tools/testing/kunit/kunit.py", "run", f"--arch={arch}", f"--jobs={os.cpu_count()}",
        f"--kunitconfig={config}", f"--build_dir={build}", f"--json={out}", "--timeout=600",
        "--make_options", cc, *args], log, check=False, cwd=src, env=env)
    if not out.exists():
        raise Failure(f"kunit.py gave no result (status {status}), see {log}")

    def cases(group, prefix):
        for case in group.get("test_cases", []):
            yield f"{prefix}.{case['name']}", case["status"]
        for sub in group.get("sub_groups", []):
            yield from cases(sub, f"{prefix}.{sub['name']}" if prefix else sub["name"])
    for case, result in cases(json.loads(out.read_text()), f"kunit-{name}"):
        yield case, "" if result == "PASS" else result.lower(), log
    yield f"kunit-{name}", f"kunit.py: status {status}" if status else "", log


HMM_BOOT = {"memory": "8G", "timeout": 900, "append": "memmap=2G$0x180000000"}
HMM_SCRIPT = """modprobe test_hmm spm_addr_dev0=0x180000000 spm_addr_dev1=0x1C0000000 || exit 2
cd /bin; ./hmm-tests; status=$?
rmmod test_hmm || exit 3
[ $status -le 1 ]
"""


def hmm_tests(on, program, name):
    result = vm.boot(on, name, HMM_SCRIPT, {"/bin/hmm-tests": program}, **HMM_BOOT)
    if result.why:
        raise Failure(f"{name}: {result.why}, see {result.console}")
    return tap(result.lines)


@check
def hmm_tests_of_the_base():
    """Upstream's hmm-tests, unmodified: nothing that passes on stock fails or skips."""
    stock = {}
    for line in (REPO / "harness/hmm-tests.stock").read_text().splitlines():
        if line and not line.startswith("#"):
            status, test = line.split("\t")
            stock[test] = status
    on = kernel(vm.plain_kernel)
    base = tree.make(tree.base(), "stock", {})
    found = hmm_tests(on, vm.user_program(on, "mm", "hmm-tests", src=base), "hmm-tests")
    for test, want in stock.items():
        have = found.get(test, "missing")
        yield f"hmm-tests.{test}", "" if have == "ok" or have == want else f"{have}, on stock {want}", \
            LOGS / "hmm-tests.log"


def cli():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    lock()
    if what == "check":
        return run_checks(CHECKS)
    if what == "lint":
        return run_checks([lint])
    raise Failure("usage: check.py check|lint|base-tests|off-check|modules-check")


if __name__ == "__main__":
    main(cli)
