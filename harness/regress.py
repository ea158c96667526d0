# SPDX-License-Identifier: GPL-2.0
"""Regressions: upstream's selftests of mm and KUnit suites of DRM and mm, on stock and on the series.

Both kernels have the same configuration, and each result that differs is a failure. The results of stock
are recorded in regress.stock. make check compares a few of the tests with this record, on a kernel that
it builds for other checks.
"""
import contextlib
import functools
import os
import re
import threading

import kernels
import series
import tree
import vm
from common import CACHE, LOGS, REPO, Failure, replace_file, say, watch
from results import kunit_results, untimed

RECORD = REPO / "harness/regress.stock"
TESTS = "tools/testing/selftests"
# The commands of run_vmtests.sh that make check runs: quick ones that use what the series touches in mm.
SHORT = "mkdirty", "mlock-random-test", "mlock2-tests", "on-fault-limit", "rmap"
# Seconds for one command of run_vmtests.sh, and for a guest, which only ends a kernel that hangs.
LIMIT, GUEST_LIMIT = 600, 10800
# Tests that differ from run to run of the same kernel: pattern -> the reason.
UNSTABLE = {
    r"transact_test Extra pages": "its name holds what it counted",
    r"ksm_tests -N -m 1": "it counts the merged pages of all processes, also of those that are gone",
    r"\.khugepaged[^:]*(: collapse_\w*swap\w*.*)?$": "one MADV_PAGEOUT has to swap out all pages, also busy ones",
    r"drm_sched_client_work": "a test of the scheduler's fails if a job takes less than it expects",
}
# The same for lines of the kernel's.
UNSTABLE_LINES = {
    r"WARNING: .* at drm_sched_client_work": "as above",
}


# ---- selftests of mm ----

def put(file, path, edits=()):
    """Copy a file with some edits. make looks at the time, so a copy that is right is not written again."""
    data = file.read_bytes()
    for old, new in edits:
        if data.count(old) != 1:
            raise Failure(f"{file} has changed: '{old.decode()}' is not in it once")
        data = data.replace(old, new)
    if path.is_symlink() or not path.exists() or path.read_bytes() != data:
        replace_file(path, data, file.stat().st_mode & 0o777)


EDITS = {
    # The default limit of 30 s is too short for an emulated kernel.
    "kselftest_harness.h": [(b"#define TEST_TIMEOUT_DEFAULT 30", b"#define TEST_TIMEOUT_DEFAULT 300")],
    # Races in so many rounds that they take ten and four minutes.
    "folio_split_race_test.c": [(b"#define NUM_ITERATIONS 100", b"#define NUM_ITERATIONS 5")],
    "hugetlb_fault_after_madv.c": [(b"int max = 10000;", b"int max = 1000;")],
    # A command that hangs must not keep the other commands from running; and single commands can be chosen.
    "run_vmtests.sh": [(b'\t("$@" 2>&1) | tap_prefix', b'\t(timeout -k 10 %d "$@" 2>&1) | tap_prefix' % LIMIT),
                       (b"if test_selected ${CATEGORY}; then",
                        b'if test_selected ${CATEGORY} && [[ "$*" =~ ${ONLY:-.} ]]; then')],
}


_building = threading.Lock()


def mm_tests(*programs):
    """The folder of stock's tests, of which these programs are built, or all."""
    with _building:
        return build_mm_tests(programs)


@functools.lru_cache(None)
def build_mm_tests(programs):
    """Their Makefile writes into its own folder, so it gets a copy."""
    src = tree.base()
    top = CACHE / "trees" / f"mm-tests-{src.name}"
    (top / TESTS / "mm").mkdir(parents=True, exist_ok=True)
    for folder in ("", "tools", "tools/testing", TESTS, f"{TESTS}/mm"):
        for entry in sorted((src / folder).iterdir()):
            mine = top / folder / entry.name
            if entry.is_file() and (folder == f"{TESTS}/mm" or entry.name in EDITS):
                put(entry, mine, EDITS.get(entry.name, ()))
            elif not mine.exists():
                mine.unlink(missing_ok=True)
                mine.symlink_to(entry)
    headers = top.parent / f"{top.name}-headers"
    watch("user headers", vm.make(src, headers, "-s", "headers"), LOGS / "headers.log")
    make = ["make", "-s", "-k", f"-j{os.cpu_count()}", "-C", top / TESTS / "mm", "CC=gcc",
            f"KHDR_INCLUDES=-isystem {headers}/usr/include"]
    # Its rules need this file, and in the run in which it is made they do not see it.
    watch("configuring the selftests of mm", [*make, "local_config.h_gen"], LOGS / "build-mm-tests.log")
    watch("building the selftests of mm", [*make, *(top / TESTS / "mm" / p for p in programs)],
          LOGS / "build-mm-tests.log")
    return top / TESTS / "mm"


def categories(tests, only):
    """The categories of run_vmtests.sh with commands that match, in their order."""
    lines = re.findall(r'CATEGORY="([\w-]+)" run_test (.*)', (tests / "run_vmtests.sh").read_text())
    return list(dict.fromkeys(category for category, command in lines if re.search(only, command)))


# The first disk is for swap, the second for files. The tests call sudo for a command that must not be root's.
SCRIPT = """
if [ -b /dev/vdb ]; then
	mkswap /dev/vda >/dev/null && swapon /dev/vda && mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt || exit 2
	mkdir /mnt/files && export SPLIT_HUGE_PAGE_TEST_XFS_PATH=/mnt/files
else
	mount -t tmpfs tmpfs /mnt || exit 2
fi
mkdir -p /mnt/bin && cp -a {tests} /mnt/mm || exit 2
printf '#!/bin/sh\\nshift 2\\nexec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"\\n' >/mnt/bin/sudo
chmod 755 /mnt /mnt/mm /mnt/bin/sudo
export PATH=/mnt/bin:$PATH
mkdir -m 1777 /mnt/tmp && mount --bind /mnt/tmp /tmp && cd /mnt/mm || exit 2
export ONLY='{only}'
for category in {todo}; do
	echo "=== $category"
	./run_vmtests.sh -d -t $category
done
echo "=== end"
"""
CPUS = "4,sockets=2"
NODES = [arg for node, cpus in enumerate(("0-1", "2-3")) for arg in (
    "-object", f"memory-backend-ram,id=node{node},size=2G", "-numa", f"node,memdev=node{node},cpus={cpus}")]


def vmtests(lines):
    """test -> ok, not ok or skip; for each command of run_vmtests.sh and each KTAP line of its program."""
    found, command, nested = {}, None, []

    def add(name, status):
        name = re.sub(r"0x[0-9a-f]+", "0x", " ".join(name.split()))
        copy = next(n for n in range(1, 100000) if (f"{name} ({n})" if n > 1 else name) not in found)
        found[f"{name} ({copy})" if copy > 1 else name] = status
    for line in lines:
        start = re.match(r"# running (.*)", line)
        end = re.match(r"(ok|not ok) \d+ (.*?)(?: # (SKIP|exit=\d+))?$", line)
        test = re.match(r"# (?:# )*(ok|not ok) \d+ (?:- )?([^#]*)(?:# *(SKIP)?([^#]*).*)?$", line)
        if start:
            command, nested = start[1], []
        elif end:
            add(end[2], "skip" if end[3] == "SKIP" else end[1])
            for status, name in nested:
                add(f"{end[2]}: {name}", status)
            command = None
        elif test and command:
            nested.append(("skip" if test[3] else test[1], test[2].strip() or test[4] or ""))
    if command:
        add(command, "no end")
    return found


def is_stable(name, unstable=UNSTABLE):
    return not any(re.search(pattern, name) for pattern in unstable)


def splats(result):
    """The lines that a kernel must not print, without the numbers, which differ from run to run. Of two places in one
    function there are two."""
    found, seen = set(), {}
    for line in dict.fromkeys(untimed(result.console.read_text(errors="replace"))):
        if vm.SPLAT.search(line) and is_stable(line, UNSTABLE_LINES):
            text = re.sub(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", line)
            place = re.search(r"\w+\.[ch]:\d+", line)
            places = seen.setdefault(text, [])
            if not places or place and place[0] not in places:
                places.append(place[0] if place else "")
            found.add(f"{text} ({len(places)} places)" if len(places) > 1 else text)
    return found


def run_vmtests(kernel, name, programs=(), disks=True):
    """(results, splats) of run_vmtests.sh, or of its commands with these programs. If a guest dies, another one
    runs the later categories."""
    tests, found, said, guest = mm_tests(*programs), {}, set(), 0
    only = "|".join(programs) or "."
    todo = categories(tests, only)
    while todo:
        guest += 1
        where = name if guest == 1 else f"{name}-{guest}"
        args = NODES + (vm.disk("swap", where) + vm.disk("files", where) if disks else [])
        result = vm.boot(kernel, where, SCRIPT.format(tests=tests, todo=" ".join(todo), only=only), root=True,
                         args=args, memory="4G", smp=CPUS, splats=".", timeout=GUEST_LIMIT)
        said |= splats(result)
        parts, now = {}, []
        for line in result.lines:
            if line.startswith("=== "):
                now = parts.setdefault(line[4:], [])
            now.append(line)
        if not parts:
            raise Failure(f"{where}: {result.why or 'no test ran'}, see {result.console}")
        for part, lines in parts.items():
            for test, status in vmtests(lines).items():
                found[f"mm.{part}.{test}"] = status
        last = list(parts)[-1]
        if last == "end":
            break
        found[f"mm.{last}"] = f"the guest ended: {result.why}"
        say(f"{where}: {result.why} in {last}, see {result.console}")
        todo = todo[todo.index(last) + 1:]
    return found, said


# ---- KUnit ----

def run_suites(kernel, name):
    """(results, splats) of all suites that are built into a kernel."""
    result = vm.boot(kernel, name, "exit 0", append="kunit.enable=1 log_buf_len=8M", memory="4G", smp=CPUS,
                     splats=".", timeout=GUEST_LIMIT)
    found = {case: {"PASS": "ok", "SKIP": "skip"}.get(status, "not ok") for case, status in
             kunit_results(result.console.read_text(errors="replace"))}
    if result.why:
        found["kunit"] = f"the guest ended: {result.why}"
    return found, splats(result)


# ---- comparisons ----

def stable(found):
    return {test: status for test, status in found.items() if is_stable(test)}


def compare(name, stock, ours, log):
    """A result for each test that did not skip on both kernels. One that ended a guest failed, on whichever."""
    stock, ours = stable(stock), stable(ours)
    for test in [*stock, *(t for t in ours if t not in stock)]:
        want, have = stock.get(test, "missing"), ours.get(test, "missing")
        if want == have == "skip":
            continue
        if want == have and want not in ("ok", "not ok"):
            want = "the same"
        yield f"{name}.{test}", "" if want == have else f"{have}, on stock {want}", log


def recorded():
    """The results of stock in regress.stock."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in RECORD.read_text().splitlines():
            if line and not line.startswith("#"):
                status, test = line.split("\t", 1)
                found[test] = status
    return found


def check_record(stock):
    """Show where the results of stock differ from the record, which is of another machine: no failure."""
    text = "# Results of stock Linux 7.3 in make regress.\n" + "".join(
        f"{status}\t{test}\n" for test, status in stable(stock).items())
    before, fresh = recorded(), LOGS / "regress.stock"
    replace_file(fresh, text.encode())
    wrong = [result for result in compare("record", before, stock, "") if result[1]]
    for name, why, _ in wrong:
        print(f"  {name}: {why.replace('on stock', 'in the record')}")
    if wrong:
        say(f"{len(wrong)} results of stock differ from {RECORD}; to make them the record: cp {fresh} {RECORD}")


def stock_kernel():
    return vm.Kernel(tree.make(tree.base(), "stock", {}), "regress", ["plain", "regress"])


def series_kernel():
    """With the symbols of the series on and its driver a module, as a distribution that has the series sets them."""
    return vm.Kernel(series.series_tree(), "regress", ["plain", "devmem", "regress"])


def everything(kernel, name):
    found, said = run_vmtests(kernel, f"{name}-mm")
    more, also = run_suites(kernel, f"{name}-kunit")
    return {**found, **more}, said | also


def regress():
    """All tests on stock and on the series. It also shows where stock differs from the record."""
    # A build beside the guests of one kernel only would slow down its tests.
    old, new = kernels.kernel(stock_kernel), kernels.kernel(series_kernel)
    stock, said = everything(old, "regress-stock")
    check_record(stock)
    ours, said_by_ours = everything(new, "regress-series")
    yield from compare("regress", stock, ours, LOGS / "regress-series-mm.log")
    more = sorted(said_by_ours - said)
    for line in more:
        print(f"  {line}")
    yield "regress.splats", f"{len(more)} lines that stock does not print" if more else "", \
        LOGS / "regress-series-mm.console"
    skipped = [test for test, status in stock.items() if status == "skip" == ours.get(test)]
    say(f"{len(skipped)} of {len(stock)} results are skips on both kernels:")
    for test in skipped:
        print(f"  {test}")


def regress_short(kernel):
    """A few tests of mm on a kernel with the series that is there already, against the record of stock."""
    def chosen(test):
        command = re.match(r"mm\.[\w-]+\.([^:]*)", test)
        return command and re.search("|".join(SHORT), command[1])
    stock = {test: status for test, status in recorded().items() if chosen(test)}
    if not stock:
        raise Failure(f"{RECORD} has no results of these tests; copy {LOGS}/regress.stock of make regress")
    ours, said = run_vmtests(kernel, "regress-short", SHORT, disks=False)
    yield from compare("regress", stock, ours, LOGS / "regress-short.log")
    yield "regress.splats", f"the kernel said: {sorted(said)[0]}" if said else "", LOGS / "regress-short.console"
