#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The tests: one line per test, the last line counts them. A test that did not run has failed.

A check is a function that yields (name, reason, log); an empty reason means that it passed.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import host
import mutants
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
    why = why.replace("\n", " ")
    COUNT[not why] += 1
    print(f"FAIL {name} ({why}{'; ' if log else ''}{log})" if why else f"ok {name}", flush=True)


def complaints(name, wrong):
    """A result that lists what is wrong, a line each."""
    for line in sorted(wrong):
        print(f"  {line}")
    return name, f"{len(wrong)} complaints" if wrong else ""


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
            report(name, str(err))
        except Exception as err:  # pylint: disable=broad-except
            report(name, f"{type(err).__name__}: {err}")
    say(f"{int(time.monotonic() - start)} s")
    print(f"{COUNT[True]} passed, {COUNT[False]} failed")
    return COUNT[False] > 0


# make lint takes what is there; make check leaves nothing out.
_fetch = True
_kernels = {}


# A guest leaves much of two CPUs idle. What is built meanwhile must not slow it down.
_builder = concurrent.futures.ThreadPoolExecutor(1, initializer=lambda: os.nice(19))


def build(make):
    """Begin to build a kernel, if nobody has: it will be wanted."""
    if make not in _kernels:
        _kernels[make] = _builder.submit(make)


def kernel(make):
    """A kernel is built once per run; one that can't be built fails each test that wants it."""
    build(make)
    return _kernels[make].result()


# A guest with cards runs on one CPU of the host (see vm.boot), so another guest goes along with it.
_second = concurrent.futures.ThreadPoolExecutor(1)
_begun = {}


def begin(results):
    """Begin to collect the results of a check, if nobody has."""
    def collect():
        found = []
        try:
            found.extend(results())
        except Exception as err:  # pylint: disable=broad-except
            found.append((results.__name__, f"{type(err).__name__}: {err}"))
        return found
    if results not in _begun:
        _begun[results] = _second.submit(collect)
    return _begun[results]


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
            compile(file.read_text(), str(file), "exec")
            yield f"lint.{file.name}", ""
        except SyntaxError as err:
            yield f"lint.{file.name}", str(err)
    for file in sorted([*(REPO / "harness").glob("*.sh"), REPO / ".ci/run"]):
        run(["bash", "-n", file])
        yield f"lint.{file.name}", ""
    yield complaints("lint.series", series.lint_static())
    src = tree.base(fetch=_fetch)
    if src:
        yield complaints("lint.checkpatch", series.checkpatch(src))
    else:
        say("no base in the cache: checkpatch was left out")


@check
def model():
    """The models of the protocol, and each of its steps switched off."""
    sys.path.insert(0, str(REPO / "harness/model"))
    import run as models  # pylint: disable=import-outside-toplevel
    for name, why in models.results():
        yield f"model.{name}", why


@check
def series_round_trip():
    """git am of the exported series on the untouched base gives the tree that is tested."""
    src, tested = tree.base(), tree.series_tree()
    over = series.overlay(src)
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        tmp = pathlib.Path(tmp)
        repo, out = tmp / "repo", tmp / "out"
        files = series.export(src, out)
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


def kunit_results(text):
    """What kunit.py makes of a console: one result per case. It wants one KTAP document at a time."""
    def cases(group, prefix):
        for case in group.get("test_cases", []):
            yield f"{prefix}.{case['name']}", case["status"]
        for sub in group.get("sub_groups", []):
            yield from cases(sub, f"{prefix}.{sub['name']}")
    for part in re.split(r"(?m)^(?=(?:\[ *[\d.]+\] )?KTAP version 1\r?$)", text)[1:]:
        with tempfile.TemporaryDirectory() as tmp:
            tmp = pathlib.Path(tmp)
            (tmp / "console").write_text(part)
            subprocess.run([sys.executable, "-B", tree.series_tree() / "tools/testing/kunit/kunit.py", "parse",
                            f"--json={tmp}/json", tmp / "console"], stdout=subprocess.DEVNULL, check=False)
            yield from cases(json.loads((tmp / "json").read_text()), "kunit")


@check
def kunit_uml():
    """The partition, where there is no ZONE_DEVICE."""
    src = tree.series_tree()
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
        yield case, "" if result == "PASS" else result.lower(), log
    splat = vm.SPLAT.search(text)
    yield "kunit-uml", f"kunit.py: status {status}" if status else f"the kernel says: {splat[0]}" if splat else "", log


def kunit_boot(on, name, script="", **kw):
    """Run the suites that are built into a kernel, and those in modules that the script loads."""
    result = vm.boot(on, name, script or "exit 0", append=f"kunit.enable=1 {kw.pop('append', '')}", **kw)
    seen = 0
    for case, status in kunit_results(result.console.read_text(errors="replace")):
        seen += 1
        yield case, "" if status == "PASS" else status.lower(), result.console
    yield name, result.why or ("" if seen else "no test ran"), result.console


# The end of each run on the debug kernel: what nothing points to any more is a leak.
LEAKS = """
K=/sys/kernel/debug/kmemleak
for i in 1 2; do sleep 6; echo scan >$K || exit 8; done
[ -z "$(cat $K)" ] || { cat $K; exit 9; }
"""


@check
def kunit_x86_64():
    """All suites, with everything on that looks for mistakes."""
    on = kernel(vm.debug_kernel)
    build(vm.kcsan_kernel)
    yield from kunit_boot(on, "kunit-x86_64", "modprobe devmem_topo_kunit || exit 2" + LEAKS,
                          append=f"panic_on_warn=1 {vm.COHERENT_KUNIT}", memory="8G", timeout=1800)


# Cards are unbound first: their memory pins the module, until a work item has freed it.
UNLOAD = """for card in /sys/bus/pci/drivers/drm_devmem/*:*; do
	[ ! -e $card ] || echo ${card##*/} >/sys/bus/pci/drivers/drm_devmem/unbind || exit 4
done
for i in 1 2 3 4 5; do rmmod drm_devmem 2>/dev/null && break; sleep 1; done
[ ! -e /sys/module/drm_devmem ] || exit 4
"""


def selftest(on, name, commands, before="", module="", end="", **kw):
    """Boot, run kselftest_harness programs, unload the driver: one result per test."""
    found = {p: vm.user_program(on, "devmem", p) for p in {c.split()[0] for c in commands}}
    script = before + f"modprobe drm_devmem {module} || exit 2\n" + "".join(
        f"echo '# run {c}'; /test/{c}\n[ $? -le 1 ] || exit 3\n" for c in commands) + UNLOAD
    result = vm.boot(on, name, script + end, {f"/test/{p}": f for p, f in found.items()}, **kw)
    lines = {c: [] for c in commands}
    now = []
    for line in result.lines:
        now = lines.get(line[6:], now) if line.startswith("# run ") else now
        now.append(line)
    for command, out in lines.items():
        try:
            for test, status in tap(out).items():
                yield f"{name}.{test}", "" if status == "ok" else status, LOGS / f"{name}.log"
        except Failure as err:
            yield f"{name}.{command}", str(err), LOGS / f"{name}.log"
    yield name, result.why, result.console


def without(*tests):
    return "".join(f" -T {t}" for t in tests)


# Each has tests that the other kind of memory has no use for.
PRIVATE_ONLY = without("in_place_part_of_huge", "zap_against_fault_in_part")
COHERENT_ONLY = without("coherent_stays", "coherent_rehome_fails")


@check
def selftests():
    begin(card_results)
    yield from selftest(kernel(vm.debug_kernel), "selftests", ["devmem" + COHERENT_ONLY, "devmem_faults"],
                        append="panic_on_warn=1", memory="6G", timeout=3600, end=LEAKS)


@check
def coherent_selftests():
    """The same with memory that the CPU can access."""
    # Clusters of one size will do here, and what is the same with either kind need not be swept again.
    faults = "devmem_faults" + without("create", "fill")
    yield from selftest(kernel(vm.debug_kernel), "coherent", ["devmem -V of_2 -V of_8" + PRIVATE_ONLY, faults],
                        append=f"panic_on_warn=1 {vm.COHERENT}", module=f"coherent_ram={vm.COHERENT_RAM}",
                        memory="8G", timeout=3600, end=LEAKS)


def soak(minutes=None):
    """Everything at once, at random: MINUTES on the debug kernel, or CHANGES of the topology on the plain one."""
    env = os.environ.get
    changes, seed = env("CHANGES"), env("SEED") or str(int(time.time()))
    if minutes is None:
        minutes = env("MINUTES") or "5"
    for what in (changes, seed, str(minutes)):
        if what and not what.isdecimal():
            raise Failure(f"'{what}' is not a number")
    on = kernel(vm.plain_kernel if changes else vm.debug_kernel)
    much, unit = int(changes or minutes), "-c" if changes else "-m"
    # A part of it without losses: where none can have been, none may be seen. And one with coherent memory.
    part = much // 4 or much // 2
    runs = [("", f"{unit} {much - part}")] + [("", f"{unit} {part} -L 0"),
                                              (f"coherent_ram={vm.COHERENT_RAM}", f"{unit} {part}")] * bool(part)
    say(f"devmem_soak -s {seed}: " + ", ".join(f"{run} {module}" for module, run in runs))
    result = vm.boot(on, "soak", "".join(
        f"modprobe drm_devmem {module} || exit 2\n/test/devmem_soak -s {seed} {run} || exit 1\n{UNLOAD}"
        for module, run in runs) + ("" if changes else LEAKS),
                     {"/test/devmem_soak": vm.user_program(on, "devmem", "devmem_soak")}, memory="8G", show=True,
                     append=vm.COHERENT if changes else f"panic_on_warn=1 {vm.COHERENT}",
                     timeout=(3 * much if changes else 80 * much) + 900)
    yield f"soak (seed {seed})", result.why, result.console


def slots(names="p0 p1 p2", **kw):
    return lambda name: host.Host(name, host.ports(names), **kw)


def slots_of_a_switch(name):
    return host.Host(name, host.switch("p0 p1 p2"))


# The terminal of a guest's script is where somebody plugs cards for it.
HOST = "export DEVMEM_HOST=/dev/ttyS1\n"


def card_results():
    # What the CPU reads of a coherent card that is gone is believed, so none goes under load by surprise.
    ways = "unbind", "remove", "power_off", "device_del", "reset", "unload"
    coherent = [without("sizes", "goes_under_load")] + [f" -r cards.{way}.goes_under_load" for way in ways]
    for name, where, cpu, together, module, tests in [
            ("hotplug", slots(), "EPYC", 1, "", [without("sizes")]),
            ("hotplug-coherent", slots(), "EPYC", 1, "coherent_cards=1", coherent),
            # KASAN wants an eighth of it, 2 GiB, for the shadow of its mapping.
            ("hotplug-sizes", slots("p2", room="16G"), "EPYC", 1, "", [" -r slots.sizes"]),
            ("hotplug-acpi", slots(acpi=True), "EPYC", 1, "",
             [f" -r cards.{w}.{t}" for w in ("device_del", "power_off") for t in ("goes", "goes_under_load")]),
            ("hotplug-apart", slots(), "qemu64", 0, "", [" -r slots.clusters"]),
            ("hotplug-switch", slots_of_a_switch, "qemu64", 1, "", [" -r slots.clusters"])]:
        yield from selftest(kernel(vm.debug_kernel), name, ["devmem_hotplug" + t for t in tests],
                            before=f"{HOST}export DEVMEM_TOGETHER={together}\n", module=module, host=where, cpu=cpu,
                            append="panic_on_warn=1", memory="6G", timeout=3600, end=LEAKS)


@check
def hotplug_tests():
    """Cards that are really plugged and torn out; and what is a cluster by their topology."""
    yield from begin(card_results).result()


def hotplug(cycles=None):
    """CYCLES times an orderly removal and one by surprise, at random moments, of 3 cards that 4 processes use."""
    cycles, seed = str(cycles or os.environ.get("CYCLES") or 10), os.environ.get("SEED") or str(int(time.time()))
    for what in (cycles, seed):
        if not what.isdecimal() or not int(what):
            raise Failure(f"'{what}' is not a number above 0")
    on = kernel(vm.plain_kernel)
    say(f"devmem_soak -C 1 -p 4 -s {seed} -c {cycles}")
    result = vm.boot(on, "hotplug-cycles", f"{HOST}modprobe drm_devmem || exit 2\n"
                     f"/test/devmem_soak -C 1 -p 4 -s {seed} -c {cycles} || exit 1\n{UNLOAD}",
                     {"/test/devmem_soak": vm.user_program(on, "devmem", "devmem_soak")}, host=slots(), cpu="EPYC",
                     memory="3G", show=True, append="log_buf_len=32M", timeout=60 * int(cycles) + 900)
    yield f"hotplug (seed {seed})", result.why, result.console


@check
def short_soak():
    yield from soak(2)


RACE = "=" * 66


def races(console):
    """KCSAN's reports on code of the series: one of the two innermost functions on either side is ours."""
    ours = re.compile(r"pgmap_|devmem_|drm_pagemap|drm_gpusvm|gpu_buddy|dev_pagemap|memremap_pages|memunmap_pages|"
                      r"zone_device|hmm_|migrate_device|migrate_vma|poison_migration|mock_|race_")
    for report in console.read_text(errors="replace").split(RACE):
        if "BUG: KCSAN: " not in report:
            continue
        lines = [re.sub(r"^\[[ \d.]*\] *", "", line) for line in report.splitlines()]
        stacks = [i for i, line in enumerate(lines) if re.search(r"(read|write|marked|assert).* of \d+ bytes ", line)]
        if any(ours.search(line) for i in stacks for line in lines[i + 1:i + 3]):
            yield next(line for line in lines if "BUG: KCSAN: " in line)


@check
def kcsan():
    """The race tests, and programs that use devices while these change, with data races looked for."""
    on, every = kernel(vm.kcsan_kernel), "BUG: KCSAN: "
    yield from kunit_boot(on, "kcsan-kunit", splats=every, append=vm.COHERENT_KUNIT, memory="8G", timeout=1200)
    tests = ["cluster.of_4.load_leave_and_join", "links.of_4.load_several_at_once", "pages.small.munmap_during_exec",
             "pages.huge.fork_rehome_and_leave", "pages.small.lost"]
    yield from selftest(on, "kcsan-selftests", [f"devmem -r {t}" for t in tests], splats=every, memory="4G",
                        timeout=1200)
    for name in ("kcsan-kunit", "kcsan-selftests"):
        yield complaints(f"{name}.races", set(races(LOGS / f"{name}.console")))


HMM_SCRIPT = """modprobe test_hmm spm_addr_dev0=0x180000000 spm_addr_dev1=0x1C0000000 || exit 2
cd /test; ./hmm-tests {}; status=$?
rmmod test_hmm || exit 3
[ $status -le 1 ] || exit 4
"""
# It gives itself 120 s, which is not enough for an emulated debug kernel.
BENCHMARK = "benchmark_thp_migration"


def hmm_tests(on, name, args="", end=""):
    """All of them, with coherent memory. With THP always on, test_hmm's 256 MiB of coherent memory
    end up in pieces; that it then asks for more and gets a warning is so on stock too."""
    base = tree.make(tree.base(), "stock", {})
    stock = {}
    for line in (REPO / "harness/hmm-tests.stock").read_text().splitlines():
        if line and not line.startswith("#") and not (args and BENCHMARK in line):
            status, test = line.split("\t")
            stock[test] = status
    result = vm.boot(on, name, HMM_SCRIPT.format(args) + end,
                     {"/test/hmm-tests": vm.user_program(on, "mm", "hmm-tests", src=base)}, memory="8G", timeout=1800,
                     append=f"{vm.COHERENT} transparent_hugepage=madvise",
                     splats=r"WARNING: \S*mm/memremap.c:\d+ at memremap_pages")
    if result.why:
        raise Failure(f"{name}: {result.why}, see {result.console}")
    found = tap(result.lines)
    for test, want in stock.items():
        have = found.get(test, "missing")
        yield f"{name}.{test}", "" if have == "ok" or have == want else f"{have}, on stock {want}", \
            LOGS / f"{name}.log"


@check
def hmm_tests_of_the_base():
    """Upstream's hmm-tests, unmodified: nothing that passes on stock fails or skips. But for the benchmark."""
    yield from hmm_tests(kernel(vm.debug_kernel), "hmm-tests", f"-T {BENCHMARK}", LEAKS)


@check
def demo():
    result = vm.demo(kernel(vm.debug_kernel), show=False, end=LEAKS, append="panic_on_warn=1")
    yield "demo", result.why, LOGS / "demo.log"


@check
def base_fixes():
    """The tests of the base fixes that are not KUnit's; base-tests shows that all fail on stock."""
    for defect, kind, name in base_list():
        if kind == "hmm":
            good, why, log = base_test(kernel(vm.debug_kernel), "series", kind, name, append="panic_on_warn=1")
            yield f"{defect}.{name}", "" if good else why, log


@check
def sparse():
    """What the annotations are for: __rcu, __user, __iomem; of every file that the series adds."""
    on, log = kernel(vm.debug_kernel), LOGS / "sparse.log"
    objs = sorted(f"{p[:-2]}.o" for p in series.overlay(tree.base())
                  if re.match(r"(mm|drivers)/.*\.c$", p) and not (tree.base() / p).exists())
    # Debian's does not know this keyword, which is all that the kernel holds against it. And of a file
    # in which it takes a constant for none, in MODULE_LICENSE() for one, it says nothing else.
    watch("sparse", vm.make(on.src, on.out, "C=2", "CHECK=sparse -D__typeof_unqual__=__typeof__ "
                            "'-D_Static_assert(...)='", *objs), log)
    lines = log.read_text(errors="replace").splitlines()
    ran = {m[1] for m in (re.match(r" *CHECK +(?:\S*/src/)?(\S+)\.c$", line) for line in lines) if m}
    for obj in objs:
        if obj[:-2] not in ran:
            yield f"sparse.{obj}", "was not looked at", log
    yield complaints("sparse", {line for line in lines if re.search(r"(warning|error): ", line)})


# ---- the tests of the base fixes, on both trees ----

def base_list():
    lines = (REPO / "harness/base-tests/list").read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def stock_tests_kernel():
    """Stock with nothing but the KUnit module of the base fixes."""
    src, mod = tree.base(), "mm/tests/device_private_kunit"
    over = series.overlay(src)
    entry = re.search(r"^config DEVICE_PRIVATE_KUNIT_TEST\n(?:[\t ].*\n|\n)+",
                      over["mm/Kconfig"][0].decode(), re.M)
    add = {"mm/Kconfig": entry[0] if entry else "",
           "mm/Makefile": "obj-$(CONFIG_DEVICE_PRIVATE_KUNIT_TEST) += tests/device_private_kunit.o\n"
                          "CFLAGS_tests/device_private_kunit.o += -include $(srctree)/mm/tests/stock.h\n"}
    files = {path: ((src / path).read_bytes() + b"\n" + text.encode(), 0o644)
             for path, text in add.items()}
    files[f"{mod}.c"] = over[f"{mod}.c"]
    files["mm/tests/stock.h"] = ((REPO / "harness/base-tests/stock.h").read_bytes(), 0o644)
    return vm.Kernel(tree.make(src, "stock-tests", files), "stock-tests", ["plain", "base-tests"])


def base_test(on, where, kind, name, append=""):
    """Run one test in a guest of its own: (passed, what was seen, log); a Failure if it did not run."""
    boot = f"base-{where}-{name}"
    if kind == "hmm":
        prog = vm.user_program(on, "mm", "hmm-tests", src=tree.series_tree())
        result = vm.boot(on, boot, f"modprobe test_hmm || exit 2\ncd /test\n"
                         f"./hmm-tests -r hmm.hmm_device_private.{name}", {"/test/hmm-tests": prog},
                         timeout=300, append=f"transparent_hugepage=madvise {append}")
        lines, started = result.lines, rf"RUN .*\.{name} "
    else:
        result = vm.boot(on, boot, "modprobe device_private_kunit", timeout=300,
                         append=f"kunit.filter_glob={name} {append}")
        text = result.console.read_text(errors="replace")
        lines = [re.sub(r"^\[[ \d.]*\] *", "", line) for line in text.splitlines()]
        started, name = r"# Subtest: device_private", name.split(".")[-1]
    if not any(re.search(started, line) for line in lines):
        raise Failure(f"{where}: {name} did not run ({result.why}), see {result.console}")
    found = [m[1] for m in (re.match(rf"(ok|not ok) \d+ (?:\S*\.)?{name}\b(?!.*SKIP)", l) for l in lines) if m]
    if result.ok and not found:
        raise Failure(f"{where}: {name} was skipped, see {result.console}")
    why = result.why or (f"{name}: not ok" if "not ok" in found else "")
    return not why, why, result.console


def base_tests():
    for defect, kind, name in base_list():
        for where, make, want in (("stock", stock_tests_kernel, False), ("series", vm.plain_kernel, True)):
            label = f"{defect}.{name}.{'passes-on-series' if want else 'fails-on-stock'}"
            try:
                good, why, log = base_test(kernel(make), where, kind, name)
            except Failure as err:
                yield label, str(err)
                continue
            yield label, "" if good == want else why or "it passes", log
            if not want and why:
                say(f"  there: {why}")
    yield from hmm_tests(kernel(vm.plain_kernel), "base-hmm-tests")


def litmus():
    """The litmus tests of the model, each with the result that it names."""
    if not shutil.which("herd7"):
        raise Failure("herd7 is not installed; Debian 12 does not have it, opam does: opam install herdtools7")
    for file in sorted((REPO / "harness/model/litmus").glob("*.litmus")):
        want = re.search(r"Result: (\w+)", file.read_text())[1]
        out = run(["herd7", "-conf", "linux-kernel.cfg", file], cwd=tree.series_tree() / "tools/memory-model")
        found = re.search(r"^Observation \S+ (\w+)", out, re.M)
        have = found[1] if found else "no result"
        yield f"litmus.{file.stem}", "" if have == want else f"{have}, not {want}"


# ---- the series switched off; the GPU drivers ----

def objects(out):
    """The compiled objects below a build folder; not those that are links of others."""
    return {str(o.relative_to(out)): o for top in ("mm", "drivers/gpu/drm") for o in (out / top).rglob("*.o")
            if "\nsource_" in o.with_name(f".{o.name}.cmd").read_text()}


def content(obj):
    """section -> contents and relocations, of an object that is built without debug information"""
    found, name = {}, ""
    for line in run(["objdump", "-s", "-r", obj]).splitlines():
        head = re.match(r"Contents of section (\S+):|RELOCATION RECORDS FOR \[(\S+)\]:", line)
        name = head[1] or head[2] if head else name
        if name and not head:
            found[name] = found.get(name, "") + line + "\n"
    return found


def off_check():
    """mm/ and drivers/gpu/drm of a kernel without our symbols are those of stock."""
    src = tree.base()
    touched = {p for patch in series.load() for p in patch.touched}
    outs = {}
    for where, tree_ in (("stock", tree.make(src, "stock", {})), ("series", tree.series_tree())):
        out = outs[where] = tree_.parent / "off"
        vm.configure(tree_, out, ["plain", "off"])
        if re.search(r"^CONFIG_(PGMAP_OWNER|DRM_DEVMEM)=", (out / ".config").read_text(), re.M):
            raise Failure("the series can't be switched off in this configuration")
        watch(f"building mm and drm, {where}", vm.make(tree_, out, "KBUILD_BUILD_TIMESTAMP=0", "prepare"),
              LOGS / f"off-{where}-prepare.log")
        watch(f"building mm and drm, {where}", vm.make(tree_, out, "mm/", "drivers/gpu/drm/"),
              LOGS / f"off-{where}.log")
    stock, ours = objects(outs["stock"]), objects(outs["series"])
    lines, same = [], 0
    # The conversion of xe changes structures that all of xe sees.
    xe = [p for p in touched if re.fullmatch(r"drivers/gpu/drm/xe/.*\.h", p)]

    def changed(name, obj):
        deps = obj.with_name(f".{obj.name}.cmd").read_text()
        return name[:-2] + ".c" in touched or any(f"/{p} " in deps for p in xe)
    for name in sorted(set(stock) | set(ours)):
        if name not in stock or name not in ours:
            where = "only in " + ("stock" if name in stock else "the series")
            if changed(name, stock.get(name) or ours[name]):
                say(f"  {name}: {where}, and its source is changed by the series")
            else:
                yield f"off.{name}", where
            continue
        one, two = content(stock[name]), content(ours[name])
        differ = {s for s in set(one) | set(two) if one.get(s) != two.get(s)}
        if not differ:
            same += 1
        elif changed(name, ours[name]):
            say(f"  {name}: its source, or a header of xe's that it includes, is changed by the series")
        elif differ == {"__bug_table"}:
            lines.append(name)
        else:
            yield f"off.{name}", f"differs in {' '.join(sorted(differ))}, though its source is not changed"
    say(f"{same} objects are the same")
    if lines:
        say("only line numbers of warnings in a header differ: " + " ".join(lines))
    yield "off-check", "" if same else "no object was compared"


def warnings(log):
    """The lines that warn, without line numbers, which move."""
    found = [line for line in log.read_text(errors="replace").splitlines()
             if re.search(r"warning: ", line, re.I)]
    return {re.sub(r":\d+(?=[: ])", "", re.sub(r"\S*/src/", "", line)) for line in found}


def modules_check():
    """xe, nouveau and amdgpu as modules; what W=1 says of xe and the helpers, beyond what stock says."""
    on, src = tree.series_tree(), tree.base()
    log = LOGS / "modules.log"
    out = on.parent / "gpu"
    remove_tree(out)  # what is not compiled does not warn
    vm.configure(on, out, ["plain", "devmem", "gpu"])
    watch("building all modules", vm.make(on, out, "bzImage", "modules"), log)
    for name in ("xe/xe", "nouveau/nouveau", "amd/amdgpu/amdgpu"):
        ko = out / f"drivers/gpu/drm/{name}.ko"
        yield f"modules.{ko.name}", "" if ko.exists() else "was not built", log
    # What a source that the series leaves alone says of the configuration (#warning) is not new.
    touched = {p for patch in series.load() for p in patch.touched}
    yield complaints("modules.warnings", {line for line in warnings(log) if "#warning" not in line or
                                          line.split(":")[0].strip() in touched})
    parts = ["drivers/gpu/drm/xe/", "drivers/gpu/drm/drm_pagemap.o", "drivers/gpu/drm/drm_pagemap_util.o",
             "drivers/gpu/drm/drm_gpusvm.o"]
    found = {}
    for where, tree_, extra in (("series", on, ["devmem"]), ("stock", tree.make(src, "stock", {}), [])):
        if where == "stock" and not found["series"]:
            break
        if where == "stock":
            parts = sorted({f"{m}.o" for line in found["series"]
                            for m in re.findall(r"^(?:Warning: )?(drivers/[\w./-]+)\.[co]\b", line)}) or parts
        out, log = tree_.parent / "w1", LOGS / f"w1-{where}.log"
        remove_tree(out)
        vm.configure(tree_, out, ["plain", *extra, "gpu"])
        watch(f"preparing W=1, {where}", vm.make(tree_, out, "prepare"), LOGS / "w1-prepare.log")
        watch(f"building xe with W=1, {where}", vm.make(tree_, out, "W=1", *parts), log)
        found[where] = warnings(log)
    new = found["series"] - found.get("stock", set())
    yield complaints("modules.xe-W=1", new)


def cli():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    todo = {"check": CHECKS, "lint": [lint], "base-tests": [base_tests], "off-check": [off_check],
            "modules-check": [modules_check], "mutants": [mutants.results], "soak": [soak],
            "hotplug": [hotplug], "litmus": [litmus]}
    if what not in todo:
        raise Failure(f"usage: check.py {'|'.join(todo)}")
    global _fetch
    _fetch = what != "lint"
    if _fetch:
        lock()
    return run_checks(todo[what])


if __name__ == "__main__":
    main(cli)
