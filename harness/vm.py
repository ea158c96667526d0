#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Small kernels: configure and build them, boot them in QEMU, run a script in them."""
import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import threading
import time

import series
import tree
from common import CACHE, LOGS, REPO, Failure, lock, main, replace_file, run, say, started, unlock, watch
from host import Host, ports

CONFIGS = REPO / "harness/configs"
BUSYBOX = pathlib.Path("/bin/busybox")
# Without LA57: the kernel forgets for a moment that it has it while it identifies the CPU, and KASAN takes good
# addresses for wild if there is an interrupt at that moment.
CPU = "max,la57=off"
# The last of a guest's 6 GiB, which its kernel leaves alone, for devices whose memory is coherent.
COHERENT_RAM = "2G@0x180000000"
COHERENT = "memmap=2G$0x180000000"
# In a section of memory that the kernel uses otherwise, of a guest's 4 GiB.
COHERENT_KUNIT = "memmap=64M$0x144000000 pgmap_owner_kunit.coherent_ram=0x144000000"
# What the kernel must not say while a test runs.
SPLAT = re.compile(r"BUG: |WARNING: |\bOops\b|Kernel panic|general protection|UBSAN: |"
                   r"rcu.*(?:stall|starved)|blocked for more than|soft lockup|"
                   r"possible (?:circular|recursive) locking|suspicious RCU|bad page state|"
                   r"turning off the locking correctness validator")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
for fd in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${fd%:*} /dev/${fd#*:}; done
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd /
"""
# The root file system of the host, as virtme-ng gives it to a guest: read-only through 9p, below an overlay in
# memory. The modules are those of the guest's kernel. /tmp is the host's, because the cache may be in it.
HOST_ROOT = """mkdir -p /lower /upper /host
mount -t 9p -o trans=virtio,version=9p2000.L,msize=500000,cache=loose,ro hostroot /lower || poweroff -f
mount -t tmpfs tmpfs /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /host || poweroff -f
for dir in dev proc sys; do mount -o rbind /$dir /host/$dir; done
for dir in lib/modules {folders}; do mkdir -p /host/$dir; mount -o bind /$dir /host/$dir; done
mount -t tmpfs tmpfs /host/run
cp /run /host/run/script
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
"""
BATCH = """exec </dev/null >/dev/ttyS1 2>&1
{run}
status=$?
echo; echo "HARNESS-EXIT $status"
reboot -f
"""
PROMPT = """sh /run
echo; echo "Leave with: poweroff -f (or Ctrl-a x)"
setsid cttyhack sh
reboot -f
"""


def make(src, out, *args):
    """The command line of a kernel make."""
    cc = os.environ.get("CC") or ("ccache gcc" if shutil.which("ccache") else "gcc")
    os.environ.update(CCACHE_BASEDIR=str(CACHE), CCACHE_NOHASHDIR="1")
    return ["make", "-C", src, f"O={out}", f"-j{os.cpu_count()}", f"CC={cc}", *args]


def configure(src, out, fragments, *args):
    """tinyconfig with the fragments merged over it; every line of them must take effect."""
    files = [CONFIGS / f"{f}.config" for f in fragments]
    seen = hashlib.sha1(str(src).encode())
    for file in [*sorted(src.glob("**/Kconfig*")), *files]:
        seen.update(file.read_bytes())
    stamp = out / ".harness-config"
    if stamp.exists() and stamp.read_text() == seen.hexdigest() and (out / ".config").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    run(make(src, out, *args, "-s", "tinyconfig"))
    run([src / "scripts/kconfig/merge_config.sh", "-m", "-O", out, out / ".config", *files], cwd=src)
    run(make(src, out, *args, "-s", "olddefconfig"))
    have = set((out / ".config").read_text().splitlines())
    off = [l for f in files for l in f.read_text().splitlines()
           if l.startswith("CONFIG_") and not l.endswith("=n") and l not in have]
    on = {h.split("=")[0] for h in have}
    off += [l for f in files for l in f.read_text().splitlines()
            if (l.endswith(" is not set") and l[2:].split()[0] in on) or (l.endswith("=n") and l[:-2] in on)]
    if off:
        raise Failure(f"the kernel in {src} does not take these lines of its configuration: "
                      + ", ".join(off))
    replace_file(stamp, seen.hexdigest().encode())


class Kernel:
    """A built kernel: where its image and its modules are."""

    def __init__(self, src, name, fragments):
        self.src, self.name = src, name
        self.out = src.parent / name
        configure(src, self.out, fragments)
        start = time.monotonic()
        watch(f"building the kernel '{name}'", make(src, self.out, "bzImage", "modules"),
              LOGS / f"build-{name}.log")
        self.mods = self.out / "initramfs-modules"
        shutil.rmtree(self.mods, ignore_errors=True)
        run(make(src, self.out, "-s", f"INSTALL_MOD_PATH={self.mods}", "INSTALL_MOD_STRIP=1",
                 "DEPMOD=/sbin/depmod", "modules_install"))
        self.image = self.out / "arch/x86/boot/bzImage"
        say(f"kernel '{name}' is ready ({int(time.monotonic() - start)} s)")

    def modules(self):
        top = self.mods / "lib/modules"
        return {f"/lib/modules/{f.relative_to(top)}": f for f in top.glob("**/*")
                if f.is_file() and not f.is_symlink()}


_user_programs = threading.Lock()


def user_program(kernel, path, name, src=None):
    with _user_programs:
        return build_program(kernel, path, name, src)


@functools.lru_cache(None)
def build_program(kernel, path, name, src):
    """Build one selftest program, static, with the headers of a kernel; src: another source tree."""
    src = src or kernel.src
    out = kernel.out / "user" / src.parent.name
    out.mkdir(parents=True, exist_ok=True)
    watch("user headers", make(kernel.src, kernel.out, "-s", "headers"), LOGS / "headers.log")
    # The 30 s that a test has if it does not say are not meant for an emulated debug kernel. A
    # program of several files gets what the header defines several times.
    slow = out / "slow.h"
    replace_file(slow, f"""#include "{src}/tools/testing/selftests/kselftest_harness.h"
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 120
""".encode())
    watch(f"building {name}", ["make", "-s", "-C", src / "tools/testing/selftests" / path, f"OUTPUT={out}",
                               "LDFLAGS=-static -Wl,-z,muldefs", f"KHDR_INCLUDES=-isystem {kernel.out}/usr/include",
                               f"CC=gcc -include {slow}", f"{out}/{name}"], LOGS / f"build-{name}.log")
    return out / name


def initramfs(path, files):
    """Write a newc archive: guest path -> host file, or the content itself."""
    made, ino = set(), 0
    with open(path, "wb") as out:
        def entry(name, mode, data=b"", rdev=(0, 0)):
            nonlocal ino
            ino += 1
            raw = name.encode() + b"\0"
            out.write(("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X" % (
                ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(raw), 0)).encode() + raw)
            out.write(b"\0" * (-(110 + len(raw)) % 4) + data + b"\0" * (-len(data) % 4))

        def folder(name):
            for sub in [*reversed(pathlib.PurePosixPath(name).parents), name]:
                sub = str(sub).strip("/")
                if sub and sub != "." and sub not in made:
                    made.add(sub)
                    entry(sub, stat.S_IFDIR | 0o755)
        for name in ("bin", "dev", "proc", "sys", "tmp", "lib"):
            folder(name)
        entry("dev/console", stat.S_IFCHR | 0o600, rdev=(5, 1))
        for name, data in sorted(files.items()):
            folder(str(pathlib.PurePosixPath(name).parent))
            if not isinstance(data, (bytes, str)):
                data = pathlib.Path(data).read_bytes()
            entry(name.strip("/"), stat.S_IFREG | 0o755, data.encode() if isinstance(data, str) else data)
        entry("TRAILER!!!", 0)


def qemu(kernel, name, files, tail, accel, memory, smp, append, more, cpu=CPU):
    if not BUSYBOX.exists():
        raise Failure(f"{BUSYBOX} is missing (package busybox-static); run: make setup")
    archive = LOGS / f"{name}.cpio"
    LOGS.mkdir(parents=True, exist_ok=True)
    initramfs(archive, {**kernel.modules(), "/bin/busybox": BUSYBOX, "/init": INIT + tail, **files})
    bios = ["-bios", "qboot.rom"] if os.path.exists("/usr/share/qemu/qboot.rom") else []
    return ["qemu-system-x86_64", "-machine", "q35", "-accel", accel, "-cpu", cpu, "-smp", str(smp),
            "-m", memory, "-nodefaults", "-display", "none", "-no-reboot", *bios, "-kernel", kernel.image,
            "-initrd", archive, "-append", f"console=ttyS0,115200 panic=-1 oops=panic {append}", *more]


def disk(name, where):
    """QEMU's arguments for an empty disk of 1 GiB, whose file is sparse."""
    path = LOGS / f"{where}.{name}"
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    return ["-drive", f"if=none,id={name},format=raw,cache=unsafe,file={path}",
            "-device", f"virtio-blk-pci,drive={name}"]


class Result:
    def __init__(self, status, lines, console, why, splat=False, late=False):
        self.status, self.lines, self.console, self.why = status, lines, console, why
        self.ok, self.splat, self.late = not why, splat, late


def listen(child, machine, log, show):
    """What the script of a guest prints, and its exit status. What it asks of the host is done and answered."""
    lines, status, start = [], None, time.monotonic()
    for line in child.stdout:
        line = line.rstrip("\r\n")
        print(f"{time.monotonic() - start:7.1f} {line}", file=log, flush=True)
        end = re.fullmatch(r"HARNESS-EXIT (\d+)", line)
        if end:
            status = int(end[1])
        elif machine and line.startswith("@"):
            answer = machine.do(line[1:])
            print(f"{time.monotonic() - start:7.1f}   {answer}", file=log, flush=True)
            with contextlib.suppress(BrokenPipeError):     # killed: boot() says so
                os.write(child.stdin.fileno(), f"{answer}\n".encode())
        else:
            lines.append(line)
            if show:
                print(line, flush=True)
    return lines, status


# On a machine that is busy an emulated CPU may be lost early, and the others wait for it without end. Nothing of the
# kernel's boot is that long without a line, until this one.
BOOTED, SILENCE = "Freeing initrd memory", 300


def guard(child, console, timeout, late):
    """End a guest after its time, or if it falls silent for SILENCE seconds in its boot; late says why."""
    start = said = time.monotonic()
    size = 0
    while child.poll() is None:
        time.sleep(1)
        now, before = time.monotonic(), size
        size = console.stat().st_size if console.exists() else 0
        said = now if size != before else said
        if now - start > timeout:
            late.append(f"no end after {timeout} s")
        elif now - said > SILENCE and BOOTED not in (console.read_text(errors="replace") if size else ""):
            late.append(f"nothing from the kernel for {SILENCE} s")
        if late:
            child.kill()
            return


def boot(kernel, name, script, files=None, *, timeout=600, memory="2G", smp=2, append="",
         accel=None, show=False, splats=None, again=True, cpu=CPU, host=None, root=False, args=()):
    """Boot, run the script, power off. Good only if the script says so and the kernel is quiet.

    The kernel's console is ttyS0 and goes to a log; the script's output is ttyS1. splats is a
    pattern of console lines that the script is expected to cause. host is called for what the
    script asks of the machine that it runs on: a line that begins with @. A guest that falls silent in its
    boot, without a complaint, is booted again, once; its console is kept.
    With root, the host's bash runs the script in the host's root file system, and what it writes is lost with
    the guest. args are more arguments for QEMU.
    """
    console = LOGS / f"{name}.console"
    machine = host and host(name)
    accel = accel or accelerator(lambda: kernel)
    # When a CPU has a card appear or vanish, QEMU 7.2 may lead another one's access to a device elsewhere,
    # if they are threads: cards seem to be dead, and what is written to slots is lost.
    if machine and accel == "tcg":
        accel = "tcg,thread=single"
    files = files or {}
    tail, more = BATCH.format(run="sh /run"), [*args, *(machine.args if machine else [])]
    if root:
        folders = " ".join(sorted({str(pathlib.PurePosixPath(f).parent).strip("/") for f in files}))
        tail = HOST_ROOT.format(folders=folders) + BATCH.format(run="/bin/chroot /host /bin/bash /run/script")
        more += ["-fsdev", "local,id=hostroot,path=/,security_model=none,readonly=on,multidevs=remap",
                 "-device", "virtio-9p-pci,fsdev=hostroot,mount_tag=hostroot"]
    cmd = qemu(kernel, name, {**files, "/run": script}, tail, accel, memory, smp,
               f"{append} {machine.append}" if machine else append,
               ["-serial", f"file:{console}", "-serial", "stdio", *more], cpu)
    console.unlink(missing_ok=True)
    late = []
    with started(cmd, stdin=subprocess.PIPE if machine else subprocess.DEVNULL, stdout=subprocess.PIPE,
                 stderr=subprocess.STDOUT, text=True, errors="replace") as child, \
            open(LOGS / f"{name}.log", "w", errors="replace") as log:
        threading.Thread(target=guard, args=(child, console, timeout, late), daemon=True).start()
        try:
            lines, status = listen(child, machine, log, show)
        finally:
            child.kill()
    text = console.read_text(errors="replace") if console.exists() else ""
    why = ""
    bad = [l for l in text.splitlines() if SPLAT.search(l) and not (splats and re.search(splats, l))]
    if late:
        why = late[0]
    elif bad:
        why = f"the kernel said: {bad[0].strip()}"
    elif status is None:
        why = "the guest ended before its script did"
    elif status:
        why = f"exit status {status}"
    if late and again and not bad and BOOTED not in text:
        kept = console.replace(console.with_suffix(".first.console")) if console.exists() else "no console"
        say(f"{name}: {why} in its boot; once more, see {kept}")
        return boot(kernel, name, script, files, timeout=timeout, memory=memory, smp=smp, append=append,
                    accel=accel, show=show, splats=splats, again=False, cpu=cpu, host=host, root=root, args=args)
    return Result(status, lines, console, why, bool(bad), bool(late))


def may_have_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


_probing = threading.Lock()


def accelerator(make_kernel):
    """kvm if a guest really runs with it (it may open and then hang), else tcg."""
    if not may_have_kvm():
        return "tcg"
    with _probing:
        return probe(make_kernel)


def probe(make_kernel):
    """What accelerator() has found out since the machine was booted, or finds out now."""
    note = CACHE / "accelerator"
    this_boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if note.exists() and note.read_text().split()[0] == this_boot:
        return note.read_text().split()[1]
    say("trying whether KVM works here (up to 30 s)")
    found = "kvm" if boot(make_kernel(), "kvm-probe", "exit 0", timeout=30, accel="kvm", again=False).ok else "tcg"
    replace_file(note, f"{this_boot} {found}\n".encode())
    say(f"QEMU runs with {found}")
    return found


def shell(kernel, script, programs, memory="4G"):
    """Boot to a prompt on this terminal; the cache is free for others meanwhile."""
    files = {f"/bin/{p}": user_program(kernel, "devmem", p) for p in programs}
    cmd = qemu(kernel, "shell", {"/run": script, **files}, PROMPT, accelerator(lambda: kernel), memory, 2, "quiet",
               ["-serial", "mon:stdio"])
    unlock()
    return subprocess.call([str(c) for c in cmd])


def plain_kernel():
    """The kernel of the tests and the demo, with the series."""
    return Kernel(series.series_tree(), "plain", ["plain", "devmem", "base-tests"])


def debug_kernel():
    """The same with everything on that looks for mistakes."""
    return Kernel(series.series_tree(), "debug", ["plain", "devmem", "debug"])


def kcsan_kernel():
    """For data races in the selftests."""
    return Kernel(series.series_tree(), "kcsan", ["plain", "devmem", "kcsan"])


def demo(kernel, program, show=True, end="", append=""):
    """The virtual GPUs, and cards that are really plugged and torn out. program gives a program by its name."""
    progs = {f"/test/{p}": program(p) for p in ("devmem_demo", "devmem_card_demo")}
    return boot(kernel, "demo", "modprobe drm_devmem cards=1 || exit 2\nexport DEVMEM_HOST=/dev/ttyS1\n" +
                "".join(f"{p} || exit 1\n" for p in progs) + end, progs,
                timeout=900, memory="4G", show=show, append=append, cpu="EPYC",
                host=lambda name: Host(name, ports("p0 p1")))


def cli():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    lock()
    if what == "demo":
        kernel = plain_kernel()
        result = demo(kernel, functools.partial(user_program, kernel, "devmem"))
        say(f"demo: {result.why or 'passed, every byte verified'}; kernel log: {result.console}")
        return not result.ok
    if what == "shell":
        return shell(plain_kernel(), "modprobe drm_devmem; ls /dev/dri; echo 'Try: devmem_demo'", ["devmem_demo"])
    raise Failure("usage: vm.py demo|shell")


if __name__ == "__main__":
    main(cli)
