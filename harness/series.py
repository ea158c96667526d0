#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The patch series: write it, apply it, take it back from a git tree, check it.

A patch file in patches/ holds a Subject: line, an empty line and the commit
message, then a line "---", then a "New-file: PATH" line for each file that the
patch adds (its content is the file at that path of this repository), then a git
diff of the files that the kernel already has. patches/series gives the order.
"""
import argparse
import concurrent.futures
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import tree
from common import CACHE, REPO, Failure, main, replace_file, run, say, stage_file

PATCHES = REPO / "patches"
NOT_KERNEL = ("patches/", "harness/", ".ci/", "README.md", "Makefile", ".gitignore", "notes/")


class Patch:
    def __init__(self, name, text):
        self.name = name
        head, sep, rest = text.partition("\n---\n")
        subject, _, body = head.partition("\n")
        if not sep or not subject.startswith("Subject: "):
            raise Failure(f"patches/{name}: needs a Subject: line, a message and a line ---")
        self.subject = subject[len("Subject: "):].strip()
        self.body = body.strip("\n")
        self.new = []
        while rest.startswith("New-file: ") or rest.startswith("\n"):
            line, _, rest = rest.partition("\n")
            if line:
                self.new.append(line[len("New-file: "):].strip())
        self.diff = rest
        self.touched = sorted({p for pair in re.findall(r"^diff --git a/(\S+) b/(\S+)$", rest, re.M)
                               for p in pair})

    def text(self):
        new = "".join(f"New-file: {p}\n" for p in self.new)
        return (f"Subject: {self.subject}\n\n{self.body}\n---\n{new}"
                + ("\n" if new and self.diff else "") + self.diff)


def load():
    try:
        names = (PATCHES / "series").read_text().split()
    except FileNotFoundError:
        raise Failure("patches/series is missing") from None
    patches = []
    for name in names:
        if not (PATCHES / name).is_file():
            raise Failure(f"patches/series names {name}, which does not exist")
        patches.append(Patch(name, (PATCHES / name).read_text()))
    return patches


def kernel_files():
    """Files of this repository that stand at a kernel path."""
    names = run(["git", "-C", REPO, "ls-files", "-z", "-c", "-o", "--exclude-standard"])
    return sorted(n for n in names.split("\0")
                  if n and not n.startswith(NOT_KERNEL) and (REPO / n).exists())


def git(repo, *args, **kw):
    """git without the user's own settings, so that the result is the same everywhere."""
    env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1",
               TZ="UTC", **kw.pop("env", {}))
    for key in [k for k in env if k in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")]:
        del env[key]
    return run(["git", "-C", repo, *args], env=env, **kw)


def identity():
    """Author and date of the exported patches."""
    def ask(*args, default):
        res = subprocess.run(["git", "-C", str(REPO), *args], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True)
        return res.stdout.strip() or default
    who = {"NAME": ask("config", "user.name", default="devmem series"),
           "EMAIL": ask("config", "user.email", default="devmem@localhost"),
           "DATE": ask("log", "-1", "--format=%cd", "--date=raw", default="@0 +0000")}
    return {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()}


class Built:
    """A small git repository: the touched files of a base, one commit per patch."""

    def __init__(self, base, patches):
        self.tmp = tempfile.TemporaryDirectory(prefix="series-", dir=CACHE)
        self.dir = pathlib.Path(self.tmp.name)
        self.patches = patches
        self.files = {p for patch in patches for p in patch.touched}
        self.new = {p for patch in patches for p in patch.new}
        for path in self.files - self.new:
            if (base / path).is_file():
                self._copy(base / path, path)
        for path in self.new:
            if (base / path).exists():
                owner = next(p.name for p in patches if path in p.new)
                self.clash = f"patch {owner} does not apply: it adds {path}, which exists already"
                break
        else:
            self.clash = None
        git(self.dir, "init", "-q", "-b", "series")
        self._commit("base")

    def _copy(self, src, path):
        dst = self.dir / path
        dst.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(src, dst)
        dst.chmod(0o755 if os.access(src, os.X_OK) else 0o644)

    def _commit(self, message):
        git(self.dir, "add", "-A", "-f")
        git(self.dir, "commit", "-q", "--allow-empty", "--cleanup=verbatim", "-F", "-",
            input=message, env=identity())

    def _apply(self, patch, *args):
        if not patch.diff:
            return
        env = dict(os.environ, GIT_CEILING_DIRECTORIES=str(self.dir.parent), LC_ALL="C")
        res = subprocess.run(["git", "-C", str(self.dir), "apply", "--whitespace=nowarn", *args, "-"],
                             input=patch.diff, text=True, stderr=subprocess.PIPE, env=env)
        if res.returncode:
            why = re.findall(r"^error: (?:patch failed: )?([^:\n]*)", res.stderr, re.M)
            where = next((w for w in why if w in patch.touched), "?")
            raise Failure(f"patch {patch.name} does not apply to {where}; nothing was changed"
                          f"\n  {res.stderr.strip()}")

    def forward(self):
        if self.clash:
            raise Failure(f"{self.clash}; nothing was changed")
        git(self.dir, "tag", "base")
        for patch in self.patches:
            self._apply(patch)
            for path in patch.new:
                if not (REPO / path).is_file():
                    raise Failure(f"patch {patch.name} adds {path}, which this repository lacks")
                self._copy(REPO / path, path)
            self._commit(f"{patch.subject}\n\n{patch.body}\n")
        return self

    def applied_already(self, base):
        """Is the base a tree that has the whole series?"""
        if not all((base / p).is_file() and (base / p).read_bytes() == (REPO / p).read_bytes()
                   for p in self.new):
            return False
        try:
            for patch in reversed(self.patches):
                self._apply(patch, "-R")
        except Failure:
            return False
        return True

    def overlay(self):
        """path -> (content, mode), or None where the series removes the file."""
        result = {}
        for path in sorted(self.files | self.new):
            file = self.dir / path
            result[path] = ((file.read_bytes(), 0o755 if os.access(file, os.X_OK) else 0o644)
                            if file.is_file() else None)
        return result


def overlay(base, patches=None):
    return Built(base, load() if patches is None else patches).forward().overlay()


@functools.lru_cache(None)
def series_tree():
    """The base with the series, in the cache."""
    src = tree.base()
    return tree.make(src, "series", overlay(src))


def export(base, out, version=None):
    """Write the series as git format-patch does; the list of files."""
    patches = load()
    built = Built(base, patches).forward()
    args = ["--zero-commit", "--no-renames", "--abbrev=12", "--signature=2.39"]
    cover = PATCHES / "cover-letter"
    if cover.is_file():
        text = cover.read_text().rstrip("\n").removeprefix("Subject: ")
        text += f"\n\nBase: Linux {version or tree.check_version(base)}\n"
        git(built.dir, "config", "branch.series.description", text)
        args += ["--cover-letter", "--cover-from-description=subject"]
    fresh = built.dir / "out"
    git(built.dir, "format-patch", "-q", *args, "-o", fresh, "base..series", env=identity())
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("[0-9][0-9][0-9][0-9]-*"):
        old.unlink()
    for file in sorted(fresh.glob("*")):
        # git am takes out/*.patch only without the cover letter; git send-email takes the folder.
        name = file.name.replace("0000-cover-letter.patch", "0000-cover-letter.txt")
        replace_file(out / name, file.read_bytes())
    return sorted(out.glob("[0-9]*.patch"))


def apply(linux):
    """Apply the series to a tree in place: all of it or nothing."""
    version = tree.check_version(linux)
    patches = load()
    built = Built(linux, patches)
    if patches and built.applied_already(linux):
        say(f"{linux} has the series already; nothing to do")
        return
    result = Built(linux, patches).forward().overlay()
    mask = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, mask)
    staged = {}
    try:
        for path, new in result.items():
            if new:
                staged[path] = stage_file(linux / path, *new)
    except OSError as err:
        for tmp in staged.values():
            tmp.unlink()
        raise Failure(f"{linux} can't be written, nothing was changed: {err}") from None
    for path in result:
        if path in staged:
            staged[path].rename(linux / path)
        else:
            (linux / path).unlink(missing_ok=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, mask)
    say(f"{len(patches)} patches applied to {linux} (Linux {version}), {len(result)} files written")


def note_what_is_loose(linux):
    """Name new files that nobody added; Debian's .gitignore hides every new file, so ask without it."""
    loose = [n for n in git(linux, "ls-files", "-o").split() if re.search(
        r"(\.([chS]|rst|sh|py|config|kunitconfig|gitignore)|/Kconfig|/Makefile)$", n)]
    if loose:
        say(f"note: not in git, so not taken (git add -f): {' '.join(loose[:10])}")


def file_name(subject, taken):
    """The name of a patch file: the subject, without a number, so that a patch in the middle renames nothing."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", subject).strip("-.")
    slug = words if len(words) <= 60 else words[:61].rpartition("-")[0]
    names = (f"{slug}{end}.patch" for end in ["", *(f"-{n}" for n in range(2, len(taken) + 2))])
    return next(name for name in names if name not in taken)


def patch_of(linux, commit, taken, added):
    """One commit as a Patch; added: path -> subject of the patch that adds it, brought up to date."""
    subject, _, body = git(linux, "log", "-1", "--format=%B", commit).strip().partition("\n")
    if re.search(r"^---", body, re.M):
        raise Failure(f"commit '{subject}': a line of the message starts with ---")
    new, old = [], []
    for line in git(linux, "diff-tree", "-r", "--no-commit-id", "--no-renames", "--name-status",
                    commit).splitlines():
        status, path = line.split("\t")
        if path in added:
            raise Failure(f"commit '{subject}' changes {path}, which '{added[path]}' of the same "
                          "series adds; put the change into that commit")
        if status == "A":
            added[path] = subject
            new.append(path)
        else:
            old.append(path)
    patch = Patch(file_name(subject, taken), f"Subject: {subject}\n\n{body.strip()}\n---\n")
    patch.new = new
    patch.diff = git(linux, "diff", "--no-renames", "--no-ext-diff", "--no-color", "--abbrev=12",
                     f"{commit}^", commit, "--", *old) if old else ""
    return patch


def import_tree(linux, base):
    """Take the commits base..HEAD of a git tree as the new series."""
    commits = git(linux, "rev-list", "--reverse", f"{base}..HEAD").split()
    if not commits:
        raise Failure(f"{linux} has no commits in {base}..HEAD")
    if git(linux, "rev-list", "--merges", f"{base}..HEAD"):
        raise Failure(f"{linux} has a merge in {base}..HEAD; make it a line of commits")
    if git(linux, "status", "--porcelain", "-uno"):
        say(f"note: {linux} has changes that are not committed; they are not taken")
    note_what_is_loose(linux)
    patches, added = [], {}
    for commit in commits:
        patches.append(patch_of(linux, commit, {p.name for p in patches}, added))
    stale = {p for patch in (load() if (PATCHES / "series").exists() else []) for p in patch.new}
    for path in added:
        mode = git(linux, "ls-tree", "HEAD", "--", path).split()[0]
        data = subprocess.run(["git", "-C", str(linux), "show", f"HEAD:{path}"],
                              stdout=subprocess.PIPE, check=True).stdout
        replace_file(REPO / path, data, 0o755 if mode == "100755" else 0o644)
    for path in stale - set(added):
        (REPO / path).unlink(missing_ok=True)
    names = {p.name for p in patches}
    for patch in patches:
        replace_file(PATCHES / patch.name, patch.text().encode())
    for file in PATCHES.glob("*.patch"):
        if file.name not in names:
            file.unlink()
    replace_file(PATCHES / "series", "".join(p.name + "\n" for p in patches).encode())
    say(f"{len(patches)} patches, {len(added)} new files, "
        f"{len(stale - set(added))} stale files removed; commit them with git")


def lint_static():
    """What is wrong with the series, without looking at a base."""
    patches = load()
    wrong = []
    owner = {}
    for patch in patches:
        for path in patch.new:
            if path in owner:
                wrong.append(f"{path}: added by {owner[path]} and by {patch.name}")
            owner[path] = patch.name
            if not (REPO / path).is_file():
                wrong.append(f"{patch.name}: adds {path}, which is missing")
        for path in set(patch.touched) & set(owner):
            wrong.append(f"{patch.name}: changes {path}, which {owner[path]} adds")
        if re.search(r"^new file mode", patch.diff, re.M):
            wrong.append(f"{patch.name}: adds a file by diff; use New-file:")
        if re.search(r"^[\w-]+-off-by:", patch.body, re.M | re.I):
            wrong.append(f"{patch.name}: carries a sign-off; the poster adds it")
        if len(patch.body) < 40:
            wrong.append(f"{patch.name}: has no commit message to speak of")
        if len(patch.subject) > 75 or patch.subject.endswith("."):
            wrong.append(f"{patch.name}: subject is too long or ends in a dot")
    wrong += [f"{path}: stands at a kernel path, but no patch adds it"
              for path in kernel_files() if path not in owner]
    wrong += [f"patches/{f.name}: is not in patches/series" for f in PATCHES.glob("*.patch")
              if f.name not in {p.name for p in patches}]
    return wrong


def checkpatch(base):
    """checkpatch --strict over the exported series; its complaints."""
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        files = export(base, pathlib.Path(tmp))
        if not files:
            return []
        # The poster signs off; MAINTAINERS is updated by a patch of its own; a base from a
        # package has no history to look commits up in.
        cmd = ["perl", base / "scripts/checkpatch.pl", f"--root={base}", "--strict", "--terse",
               "--no-summary", "--show-types", "--ignore",
               "MISSING_SIGN_OFF,FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID"]

        def one(file):
            return run([*cmd, file], check=False, cwd=base)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return [line.replace(tmp + "/", "") for out in pool.map(one, files)
                    for line in out.splitlines() if line.strip()]


def cli():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    sub = top.add_subparsers(dest="cmd", required=True)
    arg = sub.add_parser("export", help="write the series as git format-patch files")
    arg.add_argument("--base", type=pathlib.Path)
    arg.add_argument("--out", type=pathlib.Path, default=REPO / "out")
    arg = sub.add_parser("apply", help="apply the series to a tree, in place")
    arg.add_argument("--base", type=pathlib.Path, required=True)
    arg = sub.add_parser("import", help="rewrite patches/ and new files from a git tree's commits")
    arg.add_argument("tree", type=pathlib.Path)
    arg.add_argument("baserev", nargs="?", default="refs/tags/base")
    arg = sub.add_parser("lint", help="check the series; checkpatch needs a base")
    arg.add_argument("--base", type=pathlib.Path)
    arg = top.parse_args()
    if arg.cmd == "export":
        files = export(arg.base or tree.base(), arg.out)
        say(f"{len(files)} patches; on a clean Linux 7.3: git am {os.path.relpath(arg.out)}/*.patch")
    elif arg.cmd == "apply":
        apply(arg.base.resolve())
    elif arg.cmd == "import":
        import_tree(arg.tree.resolve(), arg.baserev)
    else:
        wrong = lint_static()
        base = arg.base or tree.base(fetch=False)
        if base:
            wrong += checkpatch(base)
        else:
            say("no base in the cache: checkpatch was left out")
        print("\n".join(wrong or [f"series: {len(load())} patches, no complaints"]))
        return bool(wrong)
    return 0


if __name__ == "__main__":
    main(cli)
