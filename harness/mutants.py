#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Break the protocol at one place after another, and see that the named test notices."""
import difflib
import functools
import re
import shutil
import sys
import threading

import kernelci
import kernels
import series
import tree
import vm
from common import LOGS, REPO, Failure, lock, main, replace_file, say, watch
from host import Host, ports
from results import untimed
from runner import complaints
from series import git


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


def slug(name):
    return "mutant-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run(on, boot, kind, test, over=None, hangs=True):
    """Run one test: an empty string if it passes. A guest that did not get as far as the test says nothing."""
    if kind == "kunit":
        result = vm.boot(on, boot, "exit 0", memory="4G", timeout=600,
                         append=f"kunit.enable=1 kunit.filter_glob={test} {vm.COHERENT_KUNIT}")
        suite, case = test.split(".")
        begun, bad = rf"# Subtest: {suite}\b", rf"not ok \d+ {case}\b"
        lines = [line.strip() for line in untimed(result.console.read_text(errors="replace"))]
        ran = any(re.match(rf"ok \d+ {case}\b(?!.*SKIP)", l) for l in lines)
    else:
        folder, prog, mod = {"hmm": ("mm", "hmm-tests", "test_hmm"), "access": ("mm", "hmm-access", "test_hmm"),
                             "card": ("devmem", "devmem_hotplug", "drm_devmem cards=1")
                             }.get(kind, ("devmem", kind, "drm_devmem"))
        program = vm.user_program(on, folder, prog) if folder == "mm" else kernelci.program(prog)
        with_cards = {"host": lambda name: Host(name, ports("p0 p1 p2")), "cpu": "EPYC"} if kind == "card" else {}
        result = vm.boot(on, boot, f"modprobe {mod} || exit 2\ncd /test\nexport DEVMEM_HOST=/dev/ttyS1\n"
                         f"./{prog} -r {test}",
                         {f"/test/{prog}": program, **(over or {})}, memory="4G", timeout=600,
                         append="transparent_hugepage=madvise" if folder == "mm" else "", **with_cards)
        begun, bad, lines = rf"# +RUN +{test}\b", "not ok", result.lines
        ran = any(re.match(rf"ok \d+ {test}\b(?!.*SKIP)", l) for l in lines)
    failed = any(re.match(bad, l) for l in lines)
    if not any(re.match(begun, l) for l in lines) or (result.ok and not ran and not failed):
        raise Failure(f"{test} did not run: {result.why}")
    # QEMU was killed, or where there is no run without the mutant beside this one was slow: no verdict.
    if result.status is None and not failed and not result.splat and not (hangs and result.late):
        raise Failure(f"{test}: {result.why}")
    return result.why or ("not ok" if failed else "")


def places():
    """Each mutant finds its place in the code, once, or is in it."""
    over = series.overlay(tree.base())
    wrong = set()
    for mutant in load():
        text = over[mutant[1]][0].decode()
        if (mutant[0], mutant[1]) in spoilt():
            continue
        try:
            broken(mutant, text)
        except Failure as err:
            wrong.add(str(err))
    yield complaints("mutants.places", wrong)


# They share one build folder.
_turn = threading.Lock()


def unbroken():
    """No test fails without a mutant."""
    with _turn:
        on = kernel(series.overlay(tree.base()))
        for kind, test in sorted({tuple(m[2]) for m in load()}):
            try:
                why = run(on, slug(f"unbroken {test}"), kind, test)
            except Failure as err:
                why = str(err)
            yield f"unbroken.{test}", why, LOGS / f"{slug(f'unbroken {test}')}.console"


def broken(mutant, text):
    """The text of its file with a mutant in it."""
    name, file, _, old, new = mutant
    if text.count(old) != 1:
        raise Failure(f"'{name}': its old text is {text.count(old)} times in {file}, not once; see harness/mutants")
    return text.replace(old, new)


def verdict(on, mutant, over=None, hangs=True):
    """Run the test of a mutant: the result is good if the test fails."""
    name, _, (kind, test), _, _ = mutant
    why = run(on, slug(name), kind, test, over, hangs)
    yield f"mutant {name}: {test}: {why or 'passed'}", "" if why else "not detected", LOGS / f"{slug(name)}.console"


def build_and_run(name):
    """A mutant of the list."""
    over, one = series.overlay(tree.base()), next(m for m in load() if m[0] == name)
    text, mode = over[one[1]]
    with _turn:
        yield from verdict(kernel({**over, one[1]: (broken(one, text.decode()).encode(), mode)}), one)


def checks():
    """A check for each mutant."""
    return [places, unbroken, *(functools.partial(build_and_run, m[0]) for m in load())]


DRIVER = "drivers/gpu/drm/devmem/"


def representative():
    """For make check, a mutant for which only a module has to be built: the debug kernel is there anyway."""
    on = kernels.kernel(vm.debug_kernel)
    # The last one: its test fails at once, where others wait for a timeout.
    one = [m for m in load() if m[1].startswith(DRIVER) and m[2][0].startswith("devmem_") and (m[0], m[1]) not in spoilt()][-1]
    where = on.src.parent / "broken-module"
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(on.src / DRIVER, where)
    source = where / one[1][len(DRIVER):]
    source.write_text(broken(one, source.read_text()))
    watch("building a broken module", vm.make(on.src, on.out, f"M={where}", "modules"), LOGS / "broken-module.log")
    installed = next(path for path in on.modules() if path.endswith("/drm_devmem.ko"))
    yield from verdict(on, one, {installed: where / "drm_devmem.ko"}, hangs=False)


SPOILT = series.PATCHES / "spoilt"


def spoilt():
    """(name, file) of the mutants that break has put into this checkout."""
    return [tuple(line.split("\t")) for line in SPOILT.read_text().splitlines()] if SPOILT.exists() else []


def spoil(mutant):
    """Put a mutant into this checkout: into its file, or for a file of the base into a patch after all others."""
    name = mutant[0]
    path, (text, mode) = mutant[1], series.overlay(tree.base())[mutant[1]]
    text = text.decode()
    after = broken(mutant, text)
    if (REPO / path).exists():
        replace_file(REPO / path, after.encode(), mode)
        return
    about = f"Broken on purpose by harness/mutants.py; a test has to notice.\n\nBreaks: {path}"
    subject = f"mutant: {name}"
    patch = series.Patch(series.file_name(subject, ()), f"Subject: {subject}\n\n{about}\n---\ndiff --git a/{path} b/{path}\n"
                         + "".join(difflib.unified_diff(text.splitlines(True), after.splitlines(True),
                                                        f"a/{path}", f"b/{path}")))
    replace_file(series.PATCHES / patch.name, patch.text().encode())
    order = series.PATCHES / "series"
    replace_file(order, f"{order.read_text()}{patch.name}\n".encode())


def cli():
    if len(sys.argv) < 3 or sys.argv[1] != "break":
        raise Failure("usage: mutants.py break 'NAME'...; then see what make check says")
    lock()
    if git(REPO, "status", "--porcelain").strip():
        raise Failure("the checkout has changes; git takes the mutants out again, and would take these with them")
    known = {mutant[0]: mutant for mutant in load()}
    unknown = [name for name in sys.argv[2:] if name not in known]
    if unknown:
        raise Failure(f"harness/mutants has no {', '.join(map(repr, unknown))}")
    for name in dict.fromkeys(sys.argv[2:]):
        spoil(known[name])
        with open(SPOILT, "a") as file:
            file.write(f"{name}\t{known[name][1]}\n")
        say(f"broken: {known[name][1]}; {' '.join(known[name][2])} has to notice")
    say("to take them out: git checkout . && git clean -f patches")


if __name__ == "__main__":
    main(cli)
