#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The list of checks: those of make check, and those of each part of make check-all.

What check-all adds are variants. Of each kind of defect that it can find, check has one representative.
"""
import os
import sys

import basefix
import guests
import kernelci
import mutants
import objects
import regress
import runner
import static
import tree
import vm
from common import Failure, lock, main
from kernels import build, kernel


def regress_short():
    yield from regress.regress_short(kernel(vm.debug_kernel))


# In this order; those that need the debug kernel stand behind what can be done while it is built.
CHECK = [static.lint_all, mutants.places, static.round_trip, static.model, objects.arm64, objects.off_mm,
         kernelci.kunit, regress_short, guests.kselftest, guests.cards, guests.coherent, guests.cards_coherent,
         guests.kunit_debug, guests.cards_apart, guests.cards_acpi, basefix.hmm_tests, guests.short_soak,
         guests.demo, basefix.base_fixes, mutants.representative, static.sparse]


def parts():
    """The parts of check-all: what takes long and finds more of the same kinds."""
    return {
        "check": CHECK,
        "selftests": [guests.selftests_all, guests.coherent_all],
        "cards": [guests.cards_all, guests.cards_coherent_all, guests.cards_acpi_all, guests.cards_apart_all,
                  guests.cards_switch],
        "kcsan": [guests.kcsan_selftests, guests.kcsan_coherent],
        "uml": [kernelci.uml],
        "hmm-tests": [basefix.hmm_tests_plain],
        "base-tests": basefix.base_tests(),
        "regress": [regress.regress],
        "off-check": [objects.off_check],
        "modules-check": [objects.modules_check],
        "mutants": mutants.checks(),
        "soak": [guests.soak],
        "hotplug": [guests.hotplug],
    }


def check_all():
    """All parts, or PART=name of them."""
    every, part = parts(), os.environ.get("PART")
    if part and part not in every:
        raise Failure(f"PART={part}: the parts are {' '.join(every)}")
    return runner.run_parts({part: every[part]} if part else every)


def cli():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    alone = {"lint": [static.lint], "litmus": [static.litmus]}
    if what in alone:
        return runner.run_checks(alone[what])
    lock()
    tree.base()     # before several threads want it
    if what == "check":
        build(vm.debug_kernel)
        return runner.run_checks(CHECK)
    if what == "check-all":
        return check_all()
    if what in parts():
        return runner.run_checks(parts()[what])
    raise Failure(f"usage: check.py check|check-all|lint|litmus|{'|'.join(parts())}")


if __name__ == "__main__":
    main(cli)
