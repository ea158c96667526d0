# SPDX-License-Identifier: GPL-2.0
"""Checks that run no code of the kernel: style, the model, the patches, annotations."""
import concurrent.futures
import os
import pathlib
import re
import shutil
import sys
import tempfile

import series
import tree
import vm
from common import CACHE, LOGS, REPO, run, replace_file, say, watch, Failure
from kernels import kernel
from runner import complaints


def lint(fetch=False):
    """make lint takes the base that is there; make check leaves nothing out."""
    for file in sorted((REPO / "harness").glob("**/*.py")):
        try:
            compile(file.read_text(), str(file), "exec")
            yield f"lint.{file.name}", ""
        except SyntaxError as err:
            yield f"lint.{file.name}", str(err)
    for file in sorted([*(REPO / "harness").glob("*.sh"), REPO / ".ci/run"]):
        run(["bash", "-n", file])
        yield f"lint.{file.name}", ""
    yield complaints("lint.imports", circles())
    yield complaints("lint.series", series.lint_static())
    src = tree.base() if fetch else tree.base(fetch=False)
    if src:
        yield complaints("lint.checkpatch", series.checkpatch(src))
    else:
        say("no base in the cache: checkpatch was left out")


def lint_all():
    yield from lint(fetch=True)


def circles():
    """Modules of the harness that import each other, directly or by way of others."""
    files = {f.stem: f.read_text() for f in (REPO / "harness").glob("*.py")}
    needs = {name: {m[1] or m[2] for m in re.finditer(r"^\s*(?:import (\w+)|from (\w+) import)", text, re.M)}
             & set(files) for name, text in files.items()}

    def reach(name, seen):
        for other in needs[name] - seen:
            seen |= {other} | reach(other, seen | {other})
        return seen
    return {f"{name}.py imports itself by way of others" for name in files if name in reach(name, set())}


def model():
    """The models of the protocol, and each of its steps switched off."""
    sys.path.insert(0, str(REPO / "harness/model"))
    import run as models  # pylint: disable=import-outside-toplevel
    for name, why in models.results():
        yield f"model.{name}", why


def git_tree(repo, src, over, files):
    """The files of the base that the series touches in a git repository, with the exported patches applied."""
    # With its attributes, which tell git diff where a function begins.
    for path in [p for p in (".gitattributes", *over) if (src / p).exists()]:
        replace_file(repo / path, (src / path).read_bytes(), (src / path).stat().st_mode & 0o777)
    repo.mkdir(exist_ok=True)
    series.git(repo, "init", "-q")
    series.git(repo, "add", "-A", "-f")
    series.git(repo, "commit", "-q", "--allow-empty", "-m", "base", env=series.identity())
    series.git(repo, "tag", "base")
    if files:
        series.git(repo, "am", "-q", *files, env=series.identity())


def round_trip():
    """git am of the exported series gives the tree that is tested; its commits give the patches back."""
    src, tested = tree.base(), series.series_tree()
    over = series.overlay(src)
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        repo = pathlib.Path(tmp) / "repo"
        git_tree(repo, src, over, series.export(src, pathlib.Path(tmp) / "out"))
        same = [p for p, want in over.items() if (repo / p).exists() == (tested / p).exists() and (
            not want or ((repo / p).read_bytes() == (tested / p).read_bytes() and
                         os.access(repo / p, os.X_OK) == os.access(tested / p, os.X_OK)))]
        taken, again = set(), []
        for commit in series.git(repo, "rev-list", "--reverse", "base..HEAD").split():
            again.append(series.patch_of(repo, commit, taken, {}))
            taken.add(again[-1].name)
    differ = sorted(set(over) - set(same)) + [
        p for p in tree.files(src) if p not in over and not tree.identical(src / p, tested / p)]
    differ += [p for p in tree.files(tested) if p not in over and not os.path.lexists(src / p)
               and "__pycache__" not in p]
    yield "series.round-trip", "differ: " + ", ".join(differ[:10]) if differ else ""
    differ = {a.name for a, b in zip(again, series.load()) if (a.name, a.text()) != (b.name, b.text())}
    yield complaints("series.import", differ or ({"not as many"} if len(again) != len(series.load()) else ()))


def our_objects(pattern):
    """Objects of the files that the series adds."""
    base = tree.base()
    return sorted(f"{p[:-2]}.o" for p in series.overlay(base) if re.match(pattern, p) and not (base / p).exists())


def sparse():
    """What the annotations are for: __rcu, __user, __iomem; of every file that the series adds."""
    on, log = kernel(vm.debug_kernel), LOGS / "sparse.log"
    objs = our_objects(r"(mm|drivers)/.*\.c$")
    # Debian's sparse does not know __typeof_unqual__. And after it has taken a constant for none, in
    # MODULE_LICENSE() for one, it reports nothing else for that file.
    watch("sparse", vm.make(on.src, on.out, "C=2", "CHECK=sparse -D__typeof_unqual__=__typeof__ "
                            "'-D_Static_assert(...)='", *objs), log)
    lines = log.read_text(errors="replace").splitlines()
    ran = {m[1] for m in (re.match(r" *CHECK +(?:\S*/src/)?(\S+)\.c$", line) for line in lines) if m}
    for obj in objs:
        if obj[:-2] not in ran:
            yield f"sparse.{obj}", "was not looked at", log
    yield complaints("sparse", {line for line in lines if re.search(r"(warning|error): ", line)})


def litmus():
    """The litmus tests of the model, each with the result that it names."""
    if not shutil.which("herd7"):
        raise Failure("herd7 is not installed; Debian 12 does not have it, opam does: opam install herdtools7")
    for file in sorted((REPO / "harness/model/litmus").glob("*.litmus")):
        want = re.search(r"Result: (\w+)", file.read_text())[1]
        out = run(["herd7", "-conf", "linux-kernel.cfg", file], cwd=series.series_tree() / "tools/memory-model")
        found = re.search(r"^Observation \S+ (\w+)", out, re.M)
        have = found[1] if found else "no result"
        yield f"litmus.{file.stem}", "" if have == want else f"{have}, not {want}"
