#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Break the protocol at one place after another, and see that the named test notices."""
import functools
import re
import shutil
import threading

import kernels
import series
import tree
import vm
from common import LOGS, REPO, Failure, watch
from host import Host, ports
from runner import complaints


def load():
    """name, file, (kind, test), old text, new text: see harness/mutants."""
    found, cur = [], None
    for line in (REPO / "harness/mutants").read_text().splitlines():
        if line.startswith("== "):
            cur = {"name": line[3:], "-": [], "+": []}
            found.append(cur)
        elif re.match(r"(file|test) ", line):
            cur[line[:4]] = line[5:]
        elif cur and line[:1] in ("-", "+", " "):
            for side in line[0].replace(" ", "-+"):
                cur[side].append(line[1:] + "\n")
    return [(m["name"], m["file"], m["test"].split(), "".join(m["-"]), "".join(m["+"])) for m in found]


def kernel(over):
    return vm.Kernel(tree.make(tree.base(), "mutant", over), "mutant", ["plain", "devmem", "mutants"])


def run(on, kind, test, over=None):
    """Run one test: an empty string if it passes. A guest that did not get as far as the test says nothing."""
    if kind == "kunit":
        result = vm.boot(on, "mutant", "exit 0", memory="8G", timeout=600,
                         append=f"kunit.enable=1 kunit.filter_glob={test} {vm.COHERENT_KUNIT}")
        suite, case = test.split(".")
        begun, bad = rf"# Subtest: {suite}\b", rf"not ok \d+ {case}\b"
        lines = [re.sub(r"^\[[ \d.]*\] *", "", l).strip() for l in
                 result.console.read_text(errors="replace").splitlines()]
        ran = any(re.match(rf"ok \d+ {case}\b(?!.*SKIP)", l) for l in lines)
    else:
        folder, prog, mod = {"hmm": ("mm", "hmm-tests", "test_hmm"), "selftest": ("devmem", "devmem", "drm_devmem"),
                             "card": ("devmem", "devmem_hotplug", "drm_devmem")}[kind]
        with_cards = {"host": lambda name: Host(name, ports("p0 p1 p2")), "cpu": "EPYC"} if kind == "card" else {}
        result = vm.boot(on, "mutant", f"modprobe {mod} || exit 2\ncd /test\nexport DEVMEM_HOST=/dev/ttyS1\n"
                         f"./{prog} -r {test}",
                         {f"/test/{prog}": vm.user_program(on, folder, prog), **(over or {})}, memory="4G", timeout=600,
                         append="transparent_hugepage=madvise" if kind == "hmm" else "", **with_cards)
        begun, bad, lines = rf"# +RUN +{test}\b", "not ok", result.lines
        ran = any(re.match(rf"ok \d+ {test}\b(?!.*SKIP)", l) for l in lines)
    failed = any(re.match(bad, l) for l in lines)
    if not any(re.match(begun, l) for l in lines) or (result.ok and not ran and not failed):
        raise Failure(f"{test} did not run: {result.why}")
    return result.why or ("not ok" if failed else "")


def places():
    """Each mutant finds its place in the code, once."""
    over = series.overlay(tree.base())
    yield complaints("mutants.places", {f"{name}: {file}" for name, file, _, old, _ in load()
                                        if over[file][0].decode().count(old) != 1})


# They share one build folder.
_turn = threading.Lock()


def unbroken():
    """No test fails without a mutant."""
    with _turn:
        on = kernel(series.overlay(tree.base()))
        for kind, test in sorted({tuple(m[2]) for m in load()}):
            try:
                why = run(on, kind, test)
            except Failure as err:
                why = str(err)
            yield f"unbroken.{test}", why, LOGS / "mutant.console"


def mutant(name):
    """It passes if the test fails."""
    over = series.overlay(tree.base())
    _, file, (kind, test), old, new = next(m for m in load() if m[0] == name)
    text = over[file][0].decode()
    if text.count(old) != 1:
        yield name, f"its place is there {text.count(old)} times in {file}"
        return
    with _turn:
        why = run(kernel({**over, file: (text.replace(old, new).encode(), over[file][1])}), kind, test)
    yield f"{name}: {test}: {why or 'nothing'}", "" if why else "it survived", LOGS / "mutant.console"


def checks():
    """A check for each mutant."""
    return [places, unbroken, *(functools.partial(mutant, m[0]) for m in load())]


DRIVER = "drivers/gpu/drm/devmem/"


def representative():
    """For make check, a mutant for which only a module has to be built: the debug kernel is there anyway."""
    on = kernels.kernel(vm.debug_kernel)
    # The last one: its test fails at once, where others first wait for what does not come.
    name, file, (kind, test), old, new = [m for m in load() if m[1].startswith(DRIVER) and m[2][0] == "selftest"][-1]
    where = on.src.parent / "broken-module"
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(on.src / DRIVER, where)
    text = (where / file[len(DRIVER):]).read_text()
    (where / file[len(DRIVER):]).write_text(text.replace(old, new))
    if text.count(old) != 1:
        raise Failure(f"the place of '{name}' is there {text.count(old)} times in {file}")
    watch("building a broken module", vm.make(on.src, on.out, f"M={where}", "modules"), LOGS / "broken-module.log")
    installed = next(path for path in on.modules() if path.endswith("/drm_devmem.ko"))
    why = run(on, kind, test, {installed: where / "drm_devmem.ko"})
    yield f"mutant {name}: {test}: {why or 'nothing'}", "" if why else "it survived", LOGS / "mutant.console"
