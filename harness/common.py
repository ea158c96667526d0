# SPDX-License-Identifier: GPL-2.0
"""What every tool of the harness needs: places, messages, the lock, child processes."""
import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("DEVMEM_CACHE") or pathlib.Path(
    os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "devmem-series").resolve()
LOGS = CACHE / "logs"


class Failure(Exception):
    """Something the user has to know about, in one message."""


def say(text):
    print(f"== {text}", flush=True)


def main(func):
    """Run a tool: a Failure is one message and status 1, ^C is quiet."""
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda num, _: sys.exit(128 + num))
    # Makefiles of the kernel look whether they are called by another make.
    for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS"):
        os.environ.pop(name, None)
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        sys.exit(func())
    except Failure as err:
        sys.exit(f"error: {err}")
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # What another thread waits for.
        with _starting:
            _ending.set()
            for child in _children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)


_starting = threading.RLock()
_children = set()
_ending = threading.Event()
_lock = None


def ending():
    """Whether the tool is about to end: what children did since then says nothing."""
    return _ending.is_set()


def lock():
    """One writer of the cache at a time; held until unlock() or the end of the process."""
    global _lock
    if _lock:
        return
    _lock = open(CACHE / "lock", "w")
    try:
        fcntl.flock(_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another run that uses {CACHE}")
        fcntl.flock(_lock, fcntl.LOCK_EX)


def unlock():
    global _lock
    _lock.close()
    _lock = None


@contextlib.contextmanager
def started(cmd, **kw):
    """A process that does not outlive this block, nor main(), whichever thread waits for it."""
    cmd = [str(c) for c in cmd]
    with _starting:
        if _ending.is_set():
            raise Failure("interrupted")
        try:
            child = subprocess.Popen(cmd, start_new_session=True, **kw)
        except FileNotFoundError:
            raise Failure(f"{cmd[0]} is not installed; run: make setup") from None
        _children.add(child)
    with child:
        try:
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            with _starting:
                _children.discard(child)


def run(cmd, check=True, **kw):
    """Run a short command and return what it printed; a failure shows its last words."""
    said = kw.pop("input", None)
    with started(cmd, stdin=subprocess.DEVNULL if said is None else subprocess.PIPE, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE, text=True, errors="replace", **kw) as child:
        out, err = child.communicate(said)
    if check and child.returncode:
        words = (err.strip() or out.strip()).splitlines()[-8:]
        raise Failure(f"'{' '.join(str(c) for c in cmd[:6])}' failed:\n  " + "\n  ".join(words))
    return out


def watch(what, cmd, log, check=True, **kw):
    """Run a long command into a log file, with a sign of life every half minute."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = last = time.monotonic()
    with open(log, "w", errors="replace") as out, \
            started(cmd, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **kw) as child:
        while True:
            try:
                child.wait(1)
                break
            except subprocess.TimeoutExpired:
                pass
            if time.monotonic() - last > 30:
                last = time.monotonic()
                with open(log, "rb") as sofar:
                    lines = sum(1 for _ in sofar)
                say(f"  {what}: {int(last - start)} s, {lines} lines in {log}")
    if check and child.returncode:
        with open(log, errors="replace") as done:
            lines = done.read().splitlines()
        hints = [l for l in lines if "error" in l.lower()][:5] or lines[-5:]
        raise Failure(f"{what} failed, see {log}\n  " + "\n  ".join(hints))
    return child.returncode


def stage_file(path, data, mode=0o644):
    """Write a file beside the one that it is to replace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.new")
    with open(tmp, "wb") as out:
        out.write(data)
    tmp.chmod(mode)
    return tmp


def replace_file(path, data, mode=0o644):
    """Write a file so that nobody sees half of it, and never through a hard link."""
    stage_file(path, data, mode).rename(path)


def remove_tree(path):
    if path.exists():
        away = path.with_name(f".{path.name}.old{os.getpid()}")
        path.rename(away)
        shutil.rmtree(away)
