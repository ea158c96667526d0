# SPDX-License-Identifier: GPL-2.0
"""The fixes of the base: each test fails on stock and passes with the fixes; upstream's hmm-tests change nowhere."""
import functools
import itertools
import re

import kernels
import series
import tree
import vm
from common import LOGS, REPO, Failure, say
from guests import LEAKS
from results import tap, untimed

HMM_MODULE = "modprobe test_hmm spm_addr_dev0=0x180000000 spm_addr_dev1=0x1C0000000 || exit 2\n"
HMM_SCRIPT = HMM_MODULE + """cd /test; ./hmm-tests {}; status=$?
rmmod test_hmm || exit 3
[ $status -le 1 ] || exit 4
"""
# test_hmm has no more coherent memory, which is so on stock too.
FULL = r"WARNING: \S*mm/memremap.c:\d+ at memremap_pages"
# It gives itself 120 s, which is not enough for an emulated debug kernel.
BENCHMARK = "benchmark_thp_migration"


def hmm_tests_on(on, name, args="", end=""):
    """All of them, with coherent memory."""
    base = tree.make(tree.base(), "stock", {})
    stock = {}
    for line in (REPO / "harness/hmm-tests.stock").read_text().splitlines():
        if line and not line.startswith("#") and not (args and BENCHMARK in line):
            status, test = line.split("\t")
            stock[test] = status
    result = vm.boot(on, name, HMM_SCRIPT.format(args) + end,
                     {"/test/hmm-tests": vm.user_program(on, "mm", "hmm-tests", src=base)}, memory="6G", timeout=1800,
                     append=f"{vm.COHERENT} transparent_hugepage=madvise",
                     splats=FULL)
    if result.why:
        raise Failure(f"{name}: {result.why}, see {result.console}")
    found = tap(result.lines)
    for test, want in stock.items():
        have = found.get(test, "missing")
        yield f"{name}.{test}", "" if have == "ok" or have == want else f"{have}, on stock {want}", \
            LOGS / f"{name}.log"


def hmm_tests():
    """Upstream's hmm-tests, unmodified: each test that passes on stock passes here. The benchmark is left out."""
    yield from hmm_tests_on(kernels.kernel(vm.debug_kernel), "hmm-tests", f"-T {BENCHMARK}", LEAKS)


def hmm_tests_plain():
    """With the benchmark, on a kernel without debug options."""
    yield from hmm_tests_on(kernels.kernel(vm.plain_kernel), "hmm-tests-plain")


def fixes():
    """(defect, kind, name) of each test of a base fix."""
    lines = (REPO / "harness/base-tests/list").read_text().splitlines()
    return [tuple(line.split()) for line in lines if line and not line.startswith("#")]


def stock_tests_kernel():
    """Stock with nothing but the KUnit module of the base fixes."""
    src, mod = tree.base(), "mm/tests/device_private_kunit"
    over = series.overlay(src)
    entry = re.search(r"^config DEVICE_PRIVATE_KUNIT_TEST\n(?:[\t ].*\n|\n)+",
                      over["mm/Kconfig"][0].decode(), re.M)
    add = {"mm/Kconfig": entry[0] if entry else "",
           "mm/Makefile": "obj-$(CONFIG_DEVICE_PRIVATE_KUNIT_TEST) += tests/device_private_kunit.o\n"
                          "CFLAGS_tests/device_private_kunit.o += -include $(srctree)/mm/tests/stock.h\n",
           "mm/huge_memory.c": "#include <kunit/visibility.h>\nEXPORT_SYMBOL_IF_KUNIT(split_folio_to_list);\n"}
    files = {path: ((src / path).read_bytes() + b"\n" + text.encode(), 0o644)
             for path, text in add.items()}
    files[f"{mod}.c"] = over[f"{mod}.c"]
    files["mm/tests/stock.h"] = ((REPO / "harness/base-tests/stock.h").read_bytes(), 0o644)
    return vm.Kernel(tree.make(src, "stock-tests", files), "stock-tests", ["plain", "base-tests"])


def fixes_kernel():
    """Stock with the patches before the core: the base fixes, as they can be posted and backported alone."""
    src = tree.base()
    patches = list(itertools.takewhile(lambda patch: "include/linux/pgmap_owner.h" not in patch.new, series.load()))
    return vm.Kernel(tree.make(src, "fixes", series.overlay(src, patches)), "fixes", ["plain", "base-tests"])


def run_hmm(on, boot, tests):
    """Run programs of the series' selftests/mm on lib/test_hmm, {name: arguments}, with swap on a disk, as a RAM
    disk keeps no copy of what is read back: (result, lines)."""
    src = series.series_tree()
    files = {f"/test/{name}": vm.user_program(on, "mm", name, src=src) for name in tests}
    runs = "".join(f"./{name} {args}; [ $? -le 1 ] || bad=3\n" for name, args in tests.items())
    script = f"mkswap /dev/vda >/dev/null && swapon /dev/vda || exit 2\n{HMM_MODULE}cd /test; bad=0\n{runs}exit $bad\n"
    result = vm.boot(on, boot, script, files, timeout=900, memory="6G", args=vm.disk("swap", boot), splats=FULL,
                     append=f"{vm.COHERENT} transparent_hugepage=madvise")
    return result, result.lines


def run_case(on, boot, name, append):
    """Run a KUnit case of the base fixes in a module: (result, lines)."""
    result = vm.boot(on, boot, "modprobe device_private_kunit", timeout=300,
                     append=f"kunit.filter_glob={name} {append}")
    return result, untimed(result.console.read_text(errors="replace"))


def verdict(where, name, result, lines):
    """(passed, what was seen) of one test of a guest; a Failure if it did not run."""
    case = name.split(".")[-1]
    if not any(re.search(rf"RUN .*\.{case} |# Subtest: device_private", line) for line in lines):
        raise Failure(f"{where}: {name} did not run ({result.why}), see {result.console}")
    found = [m[1] for m in (re.match(rf"(ok|not ok) \d+ (?:\S*\.)?{case}\b(?!.*SKIP)", l) for l in lines) if m]
    if result.ok and not found:
        raise Failure(f"{where}: {name} was skipped, see {result.console}")
    if result.status is None and "not ok" not in found and not result.splat:
        # QEMU was killed, or slow: no verdict.
        raise Failure(f"{where}: {name}: {result.why}, see {result.console}")
    why = result.why or (f"{name}: not ok" if "not ok" in found else "")
    return not why, why


def arguments(kind, names):
    """{program: arguments} for run_hmm() of tests of one kind."""
    if kind == "hmm":
        return {"hmm-tests": " ".join(f"-r hmm.hmm_device_private.{name}" for name in names)}
    return {"hmm-access": " ".join(f"-t {name}" for name in names)}


def base_fixes():
    """The tests that are not KUnit's, in one guest, on the series; base-tests shows that each fails on stock."""
    listed = [fix for fix in fixes() if fix[1] != "kunit"]
    tests = {}
    for kind in ("hmm", "access"):
        tests |= arguments(kind, [name for _, this, name in listed if this == kind])
    result, lines = run_hmm(kernels.kernel(vm.debug_kernel), "base-fixes", tests)
    for defect, _, name in listed:
        good, why = verdict("series", name, result, lines)
        yield f"base-fixes.{defect}.{name}", "" if good else why, result.console


def base_test(defect, kind, name):
    """One test, in a guest of its own on either kernel, as it may bring stock down."""
    for where, make, want in (("stock", stock_tests_kernel, defect == "-"), ("fixes", fixes_kernel, True)):
        on, boot = kernels.kernel(make), f"base-{where}-{name}"
        if kind == "kunit":
            result, lines = run_case(on, boot, name, "")
        else:
            result, lines = run_hmm(on, boot, arguments(kind, [name]))
        good, why = verdict(where, name, result, lines)
        yield f"{defect}.{name}.{'passes' if want else 'fails'}-on-{where}", \
            "" if good == want else why or "it passes", result.console
        if not want and why:
            say(f"  there: {why}")


def base_tests():
    """A check for each test of a base fix."""
    return [functools.partial(base_test, *fix) for fix in fixes()]
