# SPDX-License-Identifier: GPL-2.0
"""Checks of the series in guests: KUnit, the selftests on virtual GPUs and on cards, soak, demo.

No test is named here, only programs. A test looks at the machine that it runs on and skips where it has nothing to do.
"""
import os
import time

import host
import kernelci
import vm
from common import LOGS, Failure, say
from kernels import kernel
from results import kunit_rows, tap
from runner import Skip, complaints

# What nothing points to any more is a leak. The first scan names none, as it sees everything for the first time,
# and the second none that is younger than 5 s. A scan looks at all memory: 2 s for each GiB of it.
LEAKS = """
K=/sys/kernel/debug/kmemleak
echo scan >$K && sleep 5 && echo scan >$K || exit 8
[ -z "$(cat $K)" ] || { cat $K; exit 9; }
"""
# Cards are unbound first: their memory pins the module, until a work item has freed it.
UNLOAD = """for card in /sys/bus/pci/drivers/drm_devmem/*:*; do
	[ ! -e $card ] || echo ${card##*/} >/sys/bus/pci/drivers/drm_devmem/unbind || exit 4
done
for i in 1 2 3 4 5; do rmmod drm_devmem 2>/dev/null && break; sleep 1; done
[ ! -e /sys/module/drm_devmem ] || exit 4
"""
# The host that plugs cards listens on the terminal of the guest's script.
HOST = "export DEVMEM_HOST=/dev/ttyS1\n"
STRICT = "panic_on_warn=1"
# The programs that need no more than virtual GPUs.
TOPICS = ["devmem_" + topic for topic in ("basic", "cluster", "links", "pages", "lost", "held", "users")]
PROGRAMS = [*TOPICS, "devmem_faults"]
COHERENT = {"append": f"{STRICT} {vm.COHERENT}", "module": f"coherent_ram={vm.COHERENT_RAM}"}


# ---- KUnit ----

def kunit_boot(on, name, script="", **kw):
    """Run the suites that are built into a kernel, and those in modules that the script loads."""
    result = vm.boot(on, name, script or "exit 0", append=f"kunit.enable=1 {kw.pop('append', '')}", **kw)
    rows = list(kunit_rows(name, result.console.read_text(errors="replace"), result.console))
    yield from rows
    yield name, result.why or ("" if rows else "no test ran"), result.console


def kunit_debug():
    """All suites, with everything on that looks for mistakes."""
    yield from kunit_boot(kernel(vm.debug_kernel), "kunit-debug", "modprobe devmem_topo_kunit || exit 2" + LEAKS,
                          append=f"{STRICT} {vm.COHERENT_KUNIT}", memory="4G", timeout=1800)


# ---- selftests ----

def program_results(name, program, lines):
    """The tests of one kselftest_harness program."""
    log = LOGS / f"{name}.log"
    try:
        for test, status in tap(lines).items():
            yield f"{name}.{test}", {"ok": "", "skip": Skip("not on this machine")}.get(status, status), log
        yield f"{name}.{program}", "", log
    except Failure as err:
        yield f"{name}.{program}", str(err), log


def selftest(on, name, programs, before="", module="", end="", **kw):
    """Boot, run kselftest_harness programs, unload the driver: one result per test."""
    found = {p: kernelci.program(p) for p in programs}
    script = before + f"modprobe drm_devmem {module} || exit 2\n" + "".join(
        f"echo '# run {p}'; /test/{p}\ncase $? in 0|1|4) ;; *) exit 3; esac\n" for p in programs) + UNLOAD
    result = vm.boot(on, name, script + end, {f"/test/{p}": f for p, f in found.items()}, **kw)
    lines = {p: [] for p in programs}
    now = []
    for line in result.lines:
        now = lines.get(line[6:], now) if line.startswith("# run ") else now
        now.append(line)
    for program, out in lines.items():
        if any(line.startswith("1..0 # SKIP") for line in out):
            yield f"{name}.{program}", Skip("not on this machine"), result.console
        else:
            yield from program_results(name, program, out)
    yield name, result.why, result.console


def kselftest():
    """The command of the documentation, as kernel CI runs it: private memory."""
    on, src = kernel(vm.debug_kernel), kernelci.kselftest_tree()
    have = set((on.out / ".config").read_text().splitlines())
    yield complaints("kselftest.config", set((src / "tools/testing/selftests/devmem/config").read_text().split()) - have)
    result = vm.boot(on, "kselftest", f"cd {src} && {kernelci.KSELFTEST} || exit 3\n{UNLOAD}{LEAKS}", root=True,
                     append=STRICT, memory="4G", timeout=3600)
    for program, (status, lines) in kernelci.programs(result.lines).items():
        if status == "skip" and program not in PROGRAMS:
            yield f"kselftest.{program}", Skip("not on this machine"), result.console
        else:
            yield from program_results("kselftest", program, lines)
            yield f"kselftest.{program}.status", "" if status == "ok" else status, result.console
    yield "kselftest", result.why, result.console


def coherent():
    """The same programs with memory that the CPU can access."""
    yield from selftest(kernel(vm.debug_kernel), "coherent", PROGRAMS, memory="6G", timeout=3600,
                        end=LEAKS, **COHERENT)


def selftests_all():
    """Every variant, private memory."""
    yield from selftest(kernel(vm.debug_kernel), "selftests-all", [f"{p}_all" for p in PROGRAMS], append=STRICT,
                        memory="4G", timeout=7200, end=LEAKS)


def coherent_all():
    """Every variant, coherent memory."""
    yield from selftest(kernel(vm.debug_kernel), "coherent-all", [f"{p}_all" for p in PROGRAMS], memory="6G",
                        timeout=7200, end=LEAKS, **COHERENT)


# ---- cards ----

def slots(names="p0 p1 p2", **kw):
    return lambda name: host.Host(name, host.ports(names), **kw)


def slots_of_a_switch(name):
    return host.Host(name, host.switch("p0 p1 p2"))


def card_guest(name, program, where, cpu="EPYC", together=1, module="", memory="4G"):
    """A machine with slots, in which a program of tests plugs cards. together: two slots reach each other."""
    yield from selftest(kernel(vm.debug_kernel), name, [program], append=STRICT, memory=memory, timeout=3600,
                        end=LEAKS, before=f"{HOST}export DEVMEM_TOGETHER={together}\n", module=f"cards=1 {module}",
                        host=where, cpu=cpu)


def cards():
    """Slots with room for the largest cards: KASAN wants an eighth of that for the shadow of the mapping."""
    yield from card_guest("cards", "devmem_hotplug", slots(room="16G"), memory="6G")


def cards_coherent():
    yield from card_guest("cards-coherent", "devmem_hotplug", slots(), module="coherent_cards=1")


def cards_apart():
    """Slots whose devices do not reach each other."""
    yield from card_guest("cards-apart", "devmem_hotplug", slots(), cpu="qemu64", together=0)


def cards_acpi():
    """Slots that ACPI looks after."""
    yield from card_guest("cards-acpi", "devmem_hotplug", slots(acpi=True))


def cards_all():
    yield from card_guest("cards-all", "devmem_hotplug_all", slots(room="16G"), memory="6G")


def cards_coherent_all():
    yield from card_guest("cards-coherent-all", "devmem_hotplug_all", slots(), module="coherent_cards=1")


def cards_acpi_all():
    yield from card_guest("cards-acpi-all", "devmem_hotplug_all", slots(acpi=True))


def cards_apart_all():
    yield from card_guest("cards-apart-all", "devmem_hotplug_all", slots(), cpu="qemu64", together=0)


def cards_switch():
    yield from card_guest("cards-switch", "devmem_hotplug_all", slots_of_a_switch, cpu="qemu64")


# ---- all at random ----

def number(name, default):
    """A number of the environment, such as MINUTES."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not int(text):
        raise Failure(f"{name}={text} is not a number above 0")
    return int(text)


def soak_guest(on, much, unit, debug):
    """devmem_soak three times: with losses; without, when no page may be lost; with coherent memory."""
    seed, part = number("SEED", int(time.time())), much // 4 or much // 2
    runs = [("", f"{unit} {much - part}")] + [("", f"{unit} {part} -L 0"),
                                              (f"coherent_ram={vm.COHERENT_RAM}", f"{unit} {part}")] * bool(part)
    say(f"devmem_soak -s {seed}: " + ", ".join(f"{run} {module}" for module, run in runs))
    result = vm.boot(on, "soak", "".join(
        f"modprobe drm_devmem {module} || exit 2\n/test/devmem_soak -s {seed} {run} || exit 1\n{UNLOAD}"
        for module, run in runs) + LEAKS * debug,
                     {"/test/devmem_soak": kernelci.program("devmem_soak")}, memory="6G", show=True,
                     append=f"{STRICT} {vm.COHERENT}" if debug else vm.COHERENT,
                     timeout=(80 if debug else 3) * much + 900)
    yield f"soak (seed {seed})", result.why, result.console


def soak():
    """MINUTES on the debug kernel, or CHANGES of the topology on the plain one."""
    if os.environ.get("CHANGES"):
        yield from soak_guest(kernel(vm.plain_kernel), number("CHANGES", 1), "-c", False)
    else:
        yield from soak_guest(kernel(vm.debug_kernel), number("MINUTES", 5), "-m", True)


def short_soak():
    """A number of changes, not of minutes: as much is done on any machine."""
    yield from soak_guest(kernel(vm.debug_kernel), 40, "-c", True)


def hotplug():
    """CYCLES times an orderly removal and one by surprise, at random moments, of 3 cards that 4 processes use."""
    cycles, seed = number("CYCLES", 10), number("SEED", int(time.time()))
    on = kernel(vm.plain_kernel)
    say(f"devmem_soak -C 1 -p 4 -s {seed} -c {cycles}")
    result = vm.boot(on, "hotplug-cycles", f"{HOST}modprobe drm_devmem cards=1 || exit 2\n"
                     f"/test/devmem_soak -C 1 -p 4 -s {seed} -c {cycles} || exit 1\n{UNLOAD}",
                     {"/test/devmem_soak": kernelci.program("devmem_soak")}, host=slots(), cpu="EPYC",
                     memory="3G", show=True, append="log_buf_len=32M", timeout=60 * cycles + 900)
    yield f"hotplug (seed {seed})", result.why, result.console


def demo():
    result = vm.demo(kernel(vm.debug_kernel), kernelci.program, show=False, end=LEAKS, append=STRICT)
    yield "demo", result.why, LOGS / "demo.log"


# ---- data races ----

def kcsan_selftests(name="kcsan-selftests", **kw):
    """Programs that use devices while these change."""
    yield from selftest(kernel(vm.kcsan_kernel), name, TOPICS, splats="BUG: KCSAN: ", memory="6G", timeout=7200,
                        **kw)
    console = (LOGS / f"{name}.console").read_text(errors="replace")
    yield complaints(f"{name}.races", set(kernelci.races(console)))


def kcsan_coherent():
    yield from kcsan_selftests("kcsan-coherent", append=vm.COHERENT, module=COHERENT["module"])
