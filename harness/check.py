#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The tests: one line per test, the last line counts them. A test that did not run has failed.

A check is a function that yields (name, reason, log); an empty reason means that it passed.
"""
import json
import os
import pathlib
import re
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


def kunit(name, configs, arch):
    """Run kunit.py with .kunitconfig files of the series; one result per case."""
    src = tree.series_tree()
    build, log = src.parent / f"kunit-{name}", LOGS / f"kunit-{name}.log"
    out = LOGS / f"kunit-{name}.json"
    build.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    env, args = dict(os.environ, PYTHONDONTWRITEBYTECODE="1"), []
    if arch != "um":
        args = ["--qemu_args=-smp 2 -m 2G -cpu max"]
        if vm.accelerator(kernel(vm.plain_kernel)) != "kvm":
            # kunit.py asks QEMU for KVM first, which may be there and hang the guest.
            wrap = CACHE / "bin/qemu-system-x86_64"
            replace_file(wrap, QEMU_WITHOUT_KVM, 0o755)
            env["PATH"] = f"{wrap.parent}:{env['PATH']}"
    status = watch(f"KUnit {name}", [
        sys.executable, "tools/testing/kunit/kunit.py", "run", f"--arch={arch}",
        f"--jobs={os.cpu_count()}", f"--build_dir={build}", f"--json={out}", "--timeout=900",
        "--make_options", vm.make(src, build)[-1], *args, *(f"--kunitconfig={c}" for c in configs)],
        log, check=False, cwd=src, env=env)
    if not out.exists():
        raise Failure(f"kunit.py gave no result (status {status}), see {log}")

    def cases(group, prefix):
        for case in group.get("test_cases", []):
            yield f"{prefix}.{case['name']}", case["status"]
        for sub in group.get("sub_groups", []):
            yield from cases(sub, f"{prefix}.{sub['name']}")
    for case, result in cases(json.loads(out.read_text()), "kunit"):
        yield case, "" if result == "PASS" else result.lower(), log
    splat = vm.SPLAT.search((build / "test.log").read_text(errors="replace"))
    yield f"kunit-{name}", (f"kunit.py: status {status}" if status else
                            f"the kernel says: {splat[0]}" if splat else ""), log


QEMU_WITHOUT_KVM = b"""#!/bin/sh
for arg; do
	shift
	case $arg in kvm|hvf) arg=tcg;; esac
	set -- "$@" "$arg"
done
PATH=${PATH#*:} exec qemu-system-x86_64 "$@"
"""
UML = "mm/tests/pgmap_partition.kunitconfig"


@check
def kunit_uml():
    """The partition, where there is no ZONE_DEVICE."""
    yield from kunit("uml", [UML], "um")


@check
def kunit_x86_64():
    configs = [p for p, want in series.overlay(tree.base()).items()
               if want and p.endswith(".kunitconfig") and p != UML]
    if not configs:
        raise Failure("the series has no .kunitconfig")
    yield from kunit("x86_64", configs, "x86_64")


@check
def selftests():
    on = kernel(vm.plain_kernel)
    prog = vm.user_program(on, "devmem", "devmem")
    result = vm.boot(on, "selftests", "modprobe drm_devmem || exit 2\n/test/devmem\n[ $? -le 1 ]",
                     {"/test/devmem": prog}, memory="4G", timeout=900)
    for test, status in tap(result.lines).items():
        yield f"selftests.{test}", "" if status == "ok" else status, LOGS / "selftests.log"
    yield "selftests", result.why, result.console


HMM_SCRIPT = """modprobe test_hmm spm_addr_dev0=0x180000000 spm_addr_dev1=0x1C0000000 || exit 2
cd /test; ./hmm-tests; status=$?
rmmod test_hmm || exit 3
[ $status -le 1 ]
"""


def hmm_tests(on, program, name):
    """All of them, with coherent memory. With THP always on, test_hmm's 256 MiB of coherent memory
    end up in pieces; that it then asks for more and gets a warning is so on stock too."""
    result = vm.boot(on, name, HMM_SCRIPT, {"/test/hmm-tests": program}, memory="8G", timeout=900,
                     append="memmap=2G$0x180000000 transparent_hugepage=madvise",
                     splats=r"WARNING: \S*mm/memremap.c:\d+ at memremap_pages")
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


@check
def demo():
    result = vm.demo(kernel(vm.plain_kernel), show=False)
    yield "demo", result.why, LOGS / "demo.log"


@check
def base_fixes():
    """The tests of the base fixes pass on the series; base-tests shows that they fail on stock."""
    for defect, kind, name in base_list():
        good, why, log = base_test(kernel(vm.plain_kernel), "series", kind, name)
        yield f"{defect}.{name}", "" if good else why, log


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


def base_test(on, where, kind, name):
    """Run one test in a guest of its own: (passed, what was seen, log); a Failure if it did not run."""
    boot = f"base-{where}-{name}"
    if kind == "hmm":
        prog = vm.user_program(on, "mm", "hmm-tests", src=tree.series_tree())
        result = vm.boot(on, boot, f"modprobe test_hmm || exit 2\ncd /test\n"
                         f"./hmm-tests -r hmm.hmm_device_private.{name}", {"/test/hmm-tests": prog},
                         timeout=300, append="transparent_hugepage=madvise")
        lines, started = result.lines, rf"RUN .*\.{name} "
    else:
        result = vm.boot(on, boot, "modprobe device_private_kunit", timeout=300,
                         append=f"kunit.filter_glob={name}")
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
            "modules-check": [modules_check]}
    if what not in todo:
        raise Failure(f"usage: check.py {'|'.join(todo)}")
    global _fetch
    _fetch = what != "lint"
    if _fetch:
        lock()
    return run_checks(todo[what])


if __name__ == "__main__":
    main(cli)
