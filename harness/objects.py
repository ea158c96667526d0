# SPDX-License-Identifier: GPL-2.0
"""Checks that compile and do not run: arm64, the series switched off, the GPU drivers."""
import re

import series
import tree
import vm
from common import LOGS, Failure, remove_tree, run, say, watch
from runner import complaints
from static import our_objects

ARM64 = "ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "CC=aarch64-linux-gnu-gcc"


def touched():
    """Files of the kernel that the series changes."""
    return {p for patch in series.load() for p in patch.touched}


def warnings(log):
    """The lines that warn, without line numbers, which move."""
    found = [line for line in log.read_text(errors="replace").splitlines()
             if re.search(r"(warning|error): ", line, re.I)]
    return {re.sub(r":\d+(?=[: ])", "", re.sub(r"\S*/src/", "", line)) for line in found}


def arm64():
    """What the series adds and what it changes, xe and nouveau included, for another architecture, with W=1.

    amdkfd is compiled as a part of amdgpu only: modules_check does that.
    """
    src, log = series.series_tree(), LOGS / "arm64.log"
    out = src.parent / "arm64"
    vm.configure(src, out, ["arm64"], *ARM64)
    watch("preparing arm64", vm.make(src, out, *ARM64, "prepare"), LOGS / "arm64-prepare.log")
    changed = {p for p in touched() if re.match(r"(mm|lib|drivers)/(?!gpu/drm/amd/).*\.c$", p)}
    objs = our_objects(r"(mm|drivers)/.*\.c$") + sorted(f"{p[:-2]}.o" for p in changed)
    for obj in objs:
        (out / obj).unlink(missing_ok=True)   # what is not compiled does not warn
    watch("compiling for arm64", vm.make(src, out, *ARM64, "W=1", "-k", *objs), log, check=False)
    for obj in objs:
        yield f"arm64.{obj}", "" if (out / obj).exists() else "was not compiled", log
    yield complaints("arm64.warnings", warnings(log))


# ---- the series switched off ----

def objects(out):
    """The compiled objects below a build folder; not those that are links of others."""
    return {str(o.relative_to(out)): o for top in ("mm", "drivers/gpu/drm") for o in (out / top).rglob("*.o")
            if "\nsource_" in o.with_name(f".{o.name}.cmd").read_text()}


def content(obj, objdump):
    """section -> contents and relocations, of an object that is built without debug information"""
    found, name = {}, ""
    for line in run([objdump, "-s", "-r", obj]).splitlines():
        head = re.match(r"Contents of section (\S+):|RELOCATION RECORDS FOR \[(\S+)\]:", line)
        name = head[1] or head[2] if head else name
        if name and not head:
            found[name] = found.get(name, "") + line + "\n"
    return found


def build_off(where, src, fragments, parts, *args):
    """Objects of a kernel without our symbols."""
    out = src.parent / fragments[-1]
    vm.configure(src, out, fragments, *args)
    if re.search(r"^CONFIG_(PGMAP_OWNER|DRM_DEVMEM)=", (out / ".config").read_text(), re.M):
        raise Failure("the series can't be switched off in this configuration")
    for goals in (["prepare"], parts):
        watch(f"building {' '.join(goals)}, {where}", vm.make(src, out, *args, "KBUILD_BUILD_TIMESTAMP=0", *goals),
              LOGS / f"{fragments[-1]}-{where}.log")
    return objects(out)


def compare(stock, ours, objdump="objdump"):
    """Results for what differs, and the number of objects that are the same."""
    # The conversion of xe changes structures that all of xe sees.
    changes, lines, same = touched(), [], 0
    xe = [p for p in changes if re.fullmatch(r"drivers/gpu/drm/xe/.*\.h", p)]

    def changed(name, obj):
        deps = obj.with_name(f".{obj.name}.cmd").read_text()
        return name[:-2] + ".c" in changes or any(f"/{p} " in deps for p in xe)
    for name in sorted(set(stock) | set(ours)):
        if name not in stock or name not in ours:
            where = "only in " + ("stock" if name in stock else "the series")
            if changed(name, stock.get(name) or ours[name]):
                say(f"  {name}: {where}, and its source is changed by the series")
            else:
                yield f"off.{name}", where
            continue
        one, two = (content(side[name], objdump) for side in (stock, ours))
        differ = {s for s in set(one) | set(two) if one.get(s) != two.get(s)}
        if not differ:
            same += 1
        elif changed(name, ours[name]):
            say(f"  {name}: its source, or a header of xe's that it includes, is changed by the series")
        elif differ == {"__bug_table"}:
            lines.append(name)
        else:
            yield f"off.{name}", f"differs in {' '.join(sorted(differ))}, though its source is not changed"
    say(f"{same} objects are the same")
    if lines:
        say("only line numbers of warnings in a header differ: " + " ".join(lines))
    yield "off", "" if same else "no object was compared"


def both(fragments, parts, *args):
    """Objects of stock and of the series."""
    stock = tree.make(tree.base(), "stock", {})
    return [build_off(where, src, fragments, parts, *args)
            for where, src in (("stock", stock), ("series", series.series_tree()))]


def off_check():
    """mm/ and drivers/gpu/drm of a kernel without our symbols are those of stock."""
    yield from compare(*both(["plain", "off"], ["mm/", "drivers/gpu/drm/"]))


def off_mm():
    """The same of mm alone and of a small configuration; of arm64, where less has to be prepared."""
    yield from compare(*both(["off-mm"], ["mm/"], *ARM64), "aarch64-linux-gnu-objdump")


# ---- the GPU drivers ----

def modules_check():
    """xe, nouveau and amdgpu as modules, and no warning of W=1 in a touched file that stock does not have."""
    src, log = series.series_tree(), LOGS / "modules.log"
    out = src.parent / "gpu"
    remove_tree(out)  # what is not compiled does not warn
    vm.configure(src, out, ["plain", "devmem", "gpu"])
    watch("building all modules", vm.make(src, out, "W=1", "bzImage", "modules"), log)
    for name in ("xe/xe", "nouveau/nouveau", "amd/amdgpu/amdgpu"):
        ko = out / f"drivers/gpu/drm/{name}.ko"
        yield f"modules.{ko.name}", "" if ko.exists() else "was not built", log
    places = "|".join(["drivers/gpu/drm/xe/", "drivers/gpu/drm/drm_pagemap", "drivers/gpu/drm/drm_gpusvm",
                       *map(re.escape, touched())])
    ours = {line for line in warnings(log) if re.match(rf"(Warning: )?({places})", line)}
    new = ours and ours - stock_warnings({m for line in ours for m in re.findall(r"(\S+)\.[ch]\b", line)})
    yield complaints("modules.warnings", new)


def stock_warnings(sources):
    """What W=1 says of these sources without the series."""
    src = tree.make(tree.base(), "stock", {})
    out, log = src.parent / "w1", LOGS / "w1-stock.log"
    remove_tree(out)
    vm.configure(src, out, ["plain", "gpu"])
    objs = sorted(f"{s}.o" for s in sources if (src / f"{s}.c").exists())
    watch("building the same of stock", vm.make(src, out, "W=1", "prepare", *objs), log)
    return warnings(log)
