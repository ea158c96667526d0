#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Break the protocol at one place after another, and see that the named test notices."""
import re

import series
import tree
import vm
from common import LOGS, REPO, Failure


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


def run(on, kind, test):
    """Run one test: an empty string if it passes."""
    if kind == "kunit":
        result = vm.boot(on, "mutant", "exit 0", append=f"kunit.enable=1 kunit.filter_glob={test}", timeout=120)
        lines = [re.sub(r"^\[[ \d.]*\] *", "", l).strip() for l in
                 result.console.read_text(errors="replace").splitlines()]
        case = test.split(".")[-1]
        if not any(re.match(rf"(# Subtest: |# |ok \d+ |not ok \d+ ){case}\b", l) for l in lines) and result.ok:
            return f"{test} did not run"
        bad = [l for l in lines if re.match(rf"not ok \d+ {case}\b", l)]
    else:
        folder, prog, mod = ("mm", "hmm-tests", "test_hmm") if kind == "hmm" else ("devmem", "devmem", "drm_devmem")
        result = vm.boot(on, "mutant", f"modprobe {mod} || exit 2\ncd /test\n./{prog} -r {test}",
                         {f"/test/{prog}": vm.user_program(on, folder, prog)}, memory="4G", timeout=180,
                         append="transparent_hugepage=madvise" if kind == "hmm" else "")
        if not any(re.match(rf"(not )?ok \d+ {test}\b(?!.*SKIP)", l) for l in result.lines) and result.ok:
            return f"{test} did not run"
        bad = [l for l in result.lines if l.startswith("not ok")]
    return result.why or ("not ok" if bad else "")


def results():
    """(name, why, log) of each mutant: it passes if the test fails. First, that no test fails without."""
    src = tree.base()
    over, mutants = series.overlay(src), load()
    on = kernel(over)
    for kind, test in sorted({tuple(m[2]) for m in mutants}):
        why = run(on, kind, test)
        yield f"unbroken.{test}", why, LOGS / "mutant.console"
    for name, file, (kind, test), old, new in mutants:
        text = over[file][0].decode()
        if text.count(old) != 1:
            yield name, f"its place is there {text.count(old)} times in {file}", ""
            continue
        broken = {**over, file: (text.replace(old, new).encode(), over[file][1])}
        try:
            why = run(kernel(broken), kind, test)
        except Failure as err:
            yield name, f"does not build: {err}", ""
            continue
        yield f"{name}: {test}: {why or 'nothing'}", "" if why else "it survived", LOGS / "mutant.console"
