# SPDX-License-Identifier: GPL-2.0
"""What kernel CI does with the series: the commands of the documentation, on a tree made by make apply."""
import functools
import hashlib
import os
import re
import shlex
import shutil
import sys
import threading

import series
import tree
import vm
from common import CACHE, LOGS, REPO, Failure, lock, remove_tree, replace_file, run, say, watch
from kernels import kernel
from results import kunit_rows, untimed
from runner import complaints

KSELFTEST = "make -C tools/testing/selftests TARGETS=devmem run_tests"
DOCS = REPO / "Documentation/gpu"
_applying, _building = threading.Lock(), threading.Lock()


def commands(pattern):
    """The commands of the documentation that match, with their continued lines."""
    text = "\n".join(f.read_text() for f in sorted(DOCS.glob("*.rst")))
    found = [" ".join(m[0].replace("\\\n", " ").split()) for m in
             re.finditer(rf"^[ \t]+{pattern}(?:.*\\\n)*.*$", text, re.M)]
    if not found:
        raise Failure(f"Documentation/gpu has no command like {pattern}")
    return sorted(set(found))


def kernel_sources():
    """A name for what the series is made of, and for its base."""
    seen = hashlib.sha1(str(tree.base()).encode())
    for patch in series.load():
        seen.update(patch.text().encode())
        for path in patch.new:
            seen.update((REPO / path).read_bytes())
    return seen.hexdigest()


@functools.lru_cache(None)
def applied(name):
    """A tree that make apply has made of the base. Files that did not change keep their modification time."""
    src, now = CACHE / "trees/applied/src", kernel_sources()
    stamp, ours = src.parent / f"{name}.sources", src.parent.with_name(f"{name}-{src.name}") / src.name
    with _applying:
        # A tree of the caller's may change at any time.
        if not os.environ.get("LINUX") and stamp.exists() and stamp.read_text() == now and ours.is_dir():
            return ours
        lock()
        stamp.unlink(missing_ok=True)
        remove_tree(src)
        src.parent.mkdir(parents=True, exist_ok=True)
        say(f"make apply LINUX={src}")
        run(["cp", "-al", tree.base(), src])
        run(["make", "-C", REPO, "apply", f"LINUX={src}"])
        tree.make(src, name, {})
        replace_file(stamp, now.encode())
    return ours


# QEMU would try KVM first, and on some machines that can be opened and then hangs.
NO_KVM = """#!/bin/sh
for arg; do shift; [ "$arg" != kvm ] || arg=tcg; set -- "$@" "$arg"; done
exec {} "$@"
"""


def environment():
    """For kunit.py with QEMU: the environment as it is, or where KVM does not work, with a QEMU that skips it."""
    if not vm.may_have_kvm() or vm.accelerator(lambda: kernel(vm.debug_kernel)) == "kvm":
        return None
    shim = CACHE / "no-kvm/qemu-system-x86_64"
    replace_file(shim, NO_KVM.format(shutil.which(shim.name)).encode(), 0o755)
    return {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}"}


def run_kunit(name, command, src, build, env=None):
    """One run of kunit.py: its results, and what the kernel said that it must not say. Data races are for races()."""
    log, console = LOGS / f"{name}.log", build / "test.log"
    console.unlink(missing_ok=True)
    status = watch(name, [sys.executable, "-B", *command], log, check=False, cwd=src, env=env)
    if not console.exists():
        raise Failure(f"kunit.py gave no result (status {status}), see {log}")
    text = console.read_text(errors="replace")
    yield from kunit_rows(name, text, log)
    splat = next((line for line in text.splitlines() if vm.SPLAT.search(line) and "BUG: KCSAN: " not in line), "")
    yield name, f"kunit.py: status {status}" if status else f"the kernel says: {splat}" if splat else "", log


def kunit():
    """The kunit.py commands, as a user types them, one after another in one build folder; with KCSAN."""
    src, env = applied("kunit"), environment()
    for command in commands(r"\./tools/testing/kunit/kunit\.py run --arch=x86_64"):
        name = "kunit-" + re.search(r"--kunitconfig=(\S+)", command)[1].strip("/").replace("/", "-")
        say(command)
        yield from run_kunit(name, shlex.split(command), src, src / ".kunit", env)
        yield complaints(f"{name}.races", set(races((src / ".kunit/test.log").read_text(errors="replace"))))


RACE = "=" * 66


def races(console):
    """KCSAN's reports on code of the series: one of the two innermost functions on either side is ours."""
    ours = re.compile(r"pgmap_|devmem_|drm_pagemap|drm_gpusvm|gpu_buddy|dev_pagemap|memremap_pages|memunmap_pages|"
                      r"zone_device|hmm_|migrate_device|migrate_vma|poison_migration|mock_|race_")
    for report in console.split(RACE):
        if "BUG: KCSAN: " not in report:
            continue
        lines = untimed(report)
        stacks = [i for i, line in enumerate(lines) if re.search(r"(read|write|marked|assert).* of \d+ bytes ", line)]
        if any(ours.search(line) for i in stacks for line in lines[i + 1:i + 3]):
            yield next(line for line in lines if "BUG: KCSAN: " in line)


def uml():
    """The partition, where there is no ZONE_DEVICE."""
    src = applied("kunit")
    build = src.parent / "kunit-uml"
    build.mkdir(parents=True, exist_ok=True)
    # The command has no architecture: UML. Its limit of time is for real machines.
    command, = commands(r"\./tools/testing/kunit/kunit\.py run (?!--arch)")
    yield from run_kunit("uml", [*shlex.split(command), f"--build_dir={build}", "--timeout=900"], src, build)


def kselftest_tree():
    with _building:
        return build_selftests()


@functools.lru_cache(None)
def build_selftests():
    """A tree in which the command for the selftests has only to run them: programs and headers are built."""
    if KSELFTEST not in commands("make -C tools/testing/selftests"):
        raise Failure(f"Documentation/gpu does not say: {KSELFTEST}")
    src = applied("kselftest")
    # Static, for guests that have nothing but these.
    watch("headers and selftests", ["sh", "-c", "make -s headers && make -s -j2 LDFLAGS=-static "
                                    "-C tools/testing/selftests TARGETS=devmem"],
          LOGS / "kselftest-build.log", cwd=src)
    return src


def program(name):
    """A program of the selftests."""
    return kselftest_tree() / "tools/testing/selftests/devmem" / name


def programs(lines):
    """program -> (ok, not ok or skip; its lines) of what run_tests prints."""
    found, now = {}, []
    for line in lines:
        end = re.match(r"(not ok|ok) \d+ selftests: \S+: (\S+)(.*)", line)
        if end:
            found[end[2]] = ("skip" if "# SKIP" in end[3] else end[1], now)
            now = []
        elif line.startswith("# "):
            now.append(line[2:])
    if not found:
        raise Failure("run_tests gave no result: " + " / ".join(lines[-3:]))
    return found
