# SPDX-License-Identifier: GPL-2.0
"""Source trees in the cache: the base as it was fetched or given, and trees made from it.

A made tree is the base in hard links, with the files of the series written beside
them (never through a link), so that it costs seconds and little space, and make
sees only what really changed.
"""
import filecmp
import functools
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading

from common import CACHE, Failure, lock, remove_tree, replace_file, run, say

SUITE, PACKAGE = "trixie-backports", "linux-source-7.3"
VERSION = (7, 3)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SRC = CACHE / "src" / PACKAGE
OTHER = "; or give a Linux 7.3 tree with LINUX=path"


def check_version(tree):
    """The version of a tree; a Failure if it is not one the series is made for."""
    try:
        text = (tree / "Makefile").read_text()
        found = [re.search(rf"^{k} *= *(\S*)", text, re.M)[1]
                 for k in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    except (OSError, TypeError, UnicodeDecodeError):
        raise Failure(f"{tree} is not a Linux source tree; give one with LINUX=path") from None
    if tuple(map(int, found[:2])) != VERSION:
        raise Failure(f"{tree} is Linux {'.'.join(found)}; the series is made for "
                      f"{VERSION[0]}.{VERSION[1]}; give such a tree with LINUX=path")
    return ".".join(found)


def _mirror():
    rows = run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
                "Created-By: Packages"]).split("\n")
    return next((r.split("|")[2] for r in sorted(set(rows)) if r.startswith("Debian|Debian|")), None)


def _fetch():
    """The base from the machine's own Debian mirror; apt's system state stays as it is."""
    if not shutil.which("apt-get"):
        raise Failure("the base is fetched with apt-get, which is missing here" + OTHER)
    mirror = _mirror()
    if not mirror:
        raise Failure("apt knows no Debian mirror yet; run 'apt-get update' as root" + OTHER)
    lock()
    if SRC.is_dir():
        return
    for killed in CACHE.glob("fetch-*"):
        shutil.rmtree(killed)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=CACHE) as tmp:
        tmp = pathlib.Path(tmp)
        (tmp / "lists/partial").mkdir(parents=True)
        (tmp / "cache/archives/partial").mkdir(parents=True)
        (tmp / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
        apt = ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={tmp}/sources.list",
               "-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::lists={tmp}/lists",
               "-o", f"Dir::Cache={tmp}/cache", "-o", "APT::Sandbox::User=root",
               "-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Retries=2"]
        say(f"fetching {PACKAGE} ({SUITE}, about 160 MB) with a private apt configuration")
        try:
            run(apt + ["update"], cwd=tmp)
        except Failure as err:
            raise Failure(f"can't reach the Debian mirror for {SUITE}: check the network{OTHER}"
                          f"\n  {err}") from None
        try:
            run(apt + ["download", PACKAGE], cwd=tmp)
        except Failure as err:
            raise Failure(f"can't get the package {PACKAGE} from {SUITE}{OTHER}\n  {err}") from None
        deb = next(tmp.glob("*.deb"))
        say("unpacking it")
        run(["dpkg-deb", "-x", deb, tmp / "deb"])
        run(["tar", "-xf", tmp / f"deb/usr/src/{PACKAGE}.tar.xz", "-C", tmp])
        check_version(tmp / PACKAGE)
        SRC.parent.mkdir(parents=True, exist_ok=True)
        (tmp / PACKAGE).rename(SRC)


def _copy_of(linux):
    """A copy of the user's tree without what was built in it, brought up to date."""
    check_version(linux)
    inside = subprocess.run(["git", "-C", str(linux), "rev-parse", "--show-toplevel"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with tempfile.TemporaryDirectory() as tmp:
        # What the tree's .gitignore files name was built there. Debian's ignores the whole
        # top level too, which says nothing of the kind.
        rules = (linux / ".gitignore").read_text() if (linux / ".gitignore").exists() else ""
        pathlib.Path(tmp, "rules").write_text(re.sub(r"^/\*$", "", rules, flags=re.M))
        listing = ["ls-files", "-z", "-o", "-X", f"{tmp}/rules"] + (
            [] if re.search(r"^/\*$", rules, re.M) else ["--exclude-per-directory=.gitignore"])
        if inside.stdout.strip() == str(linux):
            names = run(["git", "-C", linux, *listing, "-c"])
        else:
            run(["git", "init", "-q", "--bare", f"{tmp}/git"])
            names = run(["git", f"--git-dir={tmp}/git", f"--work-tree={linux}", *listing], cwd=linux)
    want = {n for n in names.split("\0") if n and os.path.lexists(linux / n)
            and ((linux / n).is_symlink() or not (linux / n).is_dir())}
    key = hashlib.sha1(str(linux).encode()).hexdigest()[:10]
    copy = CACHE / "src" / f"given-{key}"
    say(f"using the tree {linux}")
    lock()
    for name in want:
        src, dst = linux / name, copy / name
        new = src.lstat()
        old = dst.lstat() if os.path.lexists(dst) else None
        if not old or (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns):
            dst.parent.mkdir(parents=True, exist_ok=True)
            dst.unlink(missing_ok=True)
            shutil.copy2(src, dst, follow_symlinks=False)
    for name in set(files(copy)) - want:
        (copy / name).unlink()
    return copy


def files(tree):
    todo = [""]
    while todo:
        sub = todo.pop()
        with os.scandir(tree / sub) as entries:
            for entry in entries:
                name = f"{sub}/{entry.name}" if sub else entry.name
                if entry.is_dir(follow_symlinks=False):
                    todo.append(name)
                else:
                    yield name


@functools.lru_cache(None)
def base(fetch=True):
    """The base: LINUX=path if it is given, else the package, which is fetched once."""
    linux = os.environ.get("LINUX")
    if linux:
        linux = pathlib.Path(linux).resolve()
        if not linux.is_dir():
            raise Failure(f"LINUX={linux}: no such directory")
        return _copy_of(linux)
    if not SRC.is_dir():
        if not fetch:
            return None
        _fetch()
    return SRC


def identical(one, two):
    if not os.path.lexists(two):
        return False
    if one.lstat().st_ino == two.lstat().st_ino:
        return True
    if one.is_symlink() or two.is_symlink():
        return one.is_symlink() and two.is_symlink() and os.readlink(one) == os.readlink(two)
    return filecmp.cmp(one, two, shallow=False)


def _same(path, want):
    return (os.path.lexists(path) and not path.is_symlink() and path.read_bytes() == want[0]
            and (path.stat().st_mode & 0o777) == want[1])


_making = threading.Lock()


def make(src, name, over):
    """The tree NAME: src in hard links with the files of an overlay; only changes are written.

    What is built of a tree stands beside it, so that all trees look the same from there (ccache).
    """
    with _making:
        return _make(src, name, over)


def _make(src, name, over):
    tree = CACHE / "trees" / f"{name}-{src.name}" / "src"
    lock()
    if not tree.is_dir():
        say(f"making the source tree {tree}")
        fresh = tree.with_name(f".{tree.name}.new")
        remove_tree(fresh)
        fresh.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "-al", src, fresh])
        fresh.rename(tree)
    have = set(files(tree))
    for path in files(src):
        have.discard(path)
        mine, orig = tree / path, src / path
        if path in over or identical(orig, mine):
            continue
        # Written anew, not linked: make has to see that it changed.
        if orig.is_symlink():
            mine.unlink(missing_ok=True)
            mine.symlink_to(os.readlink(orig))
        else:
            replace_file(mine, orig.read_bytes(), orig.stat().st_mode & 0o777)
    for path, want in over.items():
        have.discard(path)
        if want and not _same(tree / path, want):
            replace_file(tree / path, *want)
        elif not want:
            (tree / path).unlink(missing_ok=True)
    for path in have:
        # kunit.py builds in the tree, and make finds what is out of date there.
        if "/__pycache__/" not in path and not path.startswith(".kunit/"):
            (tree / path).unlink()
    return tree
