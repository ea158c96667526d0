# SPDX-License-Identifier: GPL-2.0
"""What test programs print: KTAP, of user space and of KUnit."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import tree
from common import Failure
from runner import Skip


def untimed(text):
    """The lines of a console, without the time that printk() puts before them."""
    return [re.sub(r"^\[[ \d.]*\] *", "", line) for line in text.splitlines()]


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
            subprocess.run([sys.executable, "-B", tree.base() / "tools/testing/kunit/kunit.py", "parse",
                            f"--json={tmp}/json", tmp / "console"], stdout=subprocess.DEVNULL, check=False)
            yield from cases(json.loads((tmp / "json").read_text()), "kunit")


def kunit_rows(name, text, log):
    """The result of each case on a console, as a check yields it."""
    for case, status in kunit_results(text):
        yield f"{name}.{case}", {"PASS": "", "SKIP": Skip("not on this machine")}.get(status, status.lower()), log
