#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Check the models: exhaustively, and with each step switched off, which has to be noticed."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
DEPTH = 2000000
MEMORY = 1800


def steps():
    """The lines of the file "steps": switch, model, property."""
    for line in (HERE / "steps").read_text().splitlines():
        if line and not line.startswith("#"):
            yield line.split(None, 3)[:3]


def search(model, switch="", prop=""):
    """What the checker says of a model; with a switch, as to one property alone."""
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copy(HERE / "common.h", tmp)
        text = (HERE / f"{model}.pml").read_text()
        if switch:
            text = re.sub(r"^bool (\w+);(?=\t)", lambda m: m[0] if m[1] == prop
                          else f"bool {m[1]} = true;", text, flags=re.M)
        (pathlib.Path(tmp) / f"{model}.pml").write_text(text)
        # The shortest counterexample is found soon, so optimising would take longer.
        opt = ["-O0", "-DBFS"] if switch else ["-O2"]
        for cmd in (["spin", *([f"-D{switch}"] if switch else []), "-a", f"{model}.pml"],
                    ["gcc", *opt, "-w", "-DSAFETY", f"-DMEMLIM={MEMORY}", "-o", "pan", "pan.c"],
                    ["./pan", f"-m{DEPTH}", "-w22", *(["-E"] if prop not in ("", "hang") else [])]):
            res = subprocess.run(cmd, cwd=tmp, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True, check=False)
            if res.returncode and cmd[0] != "./pan":
                return f"{cmd[0]} failed: {res.stdout.strip()[-200:]}"
        return res.stdout


def incomplete(out):
    """Why a search has not shown that a model has no error, or nothing."""
    found = re.search(r"pan:1: (.*)", out)
    if found:
        return found[1]
    for bad in ("Search not completed", "max search depth too small", "out of memory"):
        if bad in out:
            return bad
    if "errors: 0" not in out or "Full statespace search" not in out:
        return out.strip()[-200:] or "no result"
    # A state that was not reached is argued for where it stands.
    for name, line in re.findall(r"^\t(\w+\.\w+):(\d+), state", out, re.M):
        if "unreached" not in (HERE / name).read_text().splitlines()[int(line) - 1]:
            return f"{name}:{line} is not reached"
    return ""


def missed(out, prop):
    """Why the counterexample is not the one that it should be, or nothing."""
    found = re.search(r"pan:1: (.*)", out)
    if not found:
        return incomplete(out) or "not noticed"
    if prop == "hang":
        return "" if "invalid end state" in found[1] else found[1]
    return "" if re.search(rf"assertion violated .*\|\|{prop}\)", found[1]) else found[1]


def results():
    """Yield (name, why) for each check; why is empty if it passed."""
    for tool in ("spin", "gcc"):
        if not shutil.which(tool):
            yield f"model-{tool}", f"{tool} is not installed"
            return
    todo = list(steps())
    known = {(switch, model) for switch, model, _ in todo}
    here = {(switch, path.stem) for path in HERE.glob("*.pml")
            for switch in re.findall(r"\b(?:ifn?def |defined\()(\w+)", path.read_text())}
    yield "model-steps", " ".join(sorted(switch for switch, _ in known ^ here))
    for model in sorted(path.stem for path in HERE.glob("*.pml")):
        yield f"model-{model}", incomplete(search(model))
    for switch, model, prop in todo:
        yield f"model-{model}-{switch}", missed(search(model, switch, prop), prop)


if __name__ == "__main__":
    FAILED = 0
    for name, why in results():
        print(f"FAIL {name} ({why})" if why else f"ok {name}", flush=True)
        FAILED |= bool(why)
    sys.exit(FAILED)
