# SPDX-License-Identifier: GPL-2.0
"""What an operator does to the cards of a guest: plug and unplug them, tear them out, and worse."""
import json
import re
import socket
import time

from common import LOGS, Failure

ECAM = 0xb0000000
COMMAND, BRIDGE_CONTROL = 0x4, 0x3e
# PCI Express capability, and Slot Control in it: power off, power indicator off; on.
CAP_EXP, SLTCTL, SLOT_OFF, SLOT_ON = 0x10, 0x18, 0x700, 0x100


def ports(name, bus="pcie.0"):
    """A slot each, with hot-plug."""
    return [a for i, n in enumerate(name.split()) for a in (
        "-device", f"pcie-root-port,id={n},bus={bus},chassis={i + 1},slot={i + 1},addr={i + 0x10:#x}")]


def switch(names):
    """Slots under one switch. No ACS: what is in them talks to each other directly."""
    args = ["-device", "pcie-root-port,id=up,bus=pcie.0,chassis=20,slot=20,addr=0x1e",
            "-device", "x3130-upstream,id=sw,bus=up"]
    for i, name in enumerate(names.split()):
        args += ["-device", f"xio3130-downstream,id={name},bus=sw,chassis={i + 21},slot={i + 21},addr={i}"]
    return args


class Host:
    """The host's side of one guest. A line "@verb arguments" of its script is answered by do()."""

    def __init__(self, name, args=(), acpi=False, room="256M"):
        # For cards that come later: qboot leaves that to the kernel, which would be stingy.
        self.append = f"pci=hpmmioprefsize={room}"
        self.qmp_path, self.qtest_path = LOGS / f"{name}.qmp", LOGS / f"{name}.qtest"
        for path in (self.qmp_path, self.qtest_path):
            path.unlink(missing_ok=True)
        self.args = [*args, "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
                     "-qtest", f"unix:{self.qtest_path},server=on,wait=off", "-qtest-log", "none"]
        # With place for that, whatever the room.
        self.args += ["-global", "q35-pcihost.pci-hole64-size=128G"]
        if not acpi:
            self.args += ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
        self.acpi = acpi
        # A port -> where it is plugged in: another one, or the bus of the machine.
        self.above = dict(re.findall(r"id=(\w+),bus=([\w.]+)", " ".join(args)))
        self.qmp_end = self.qtest_end = None
        # Cards that have been unplugged, and those whose memory is there: in which slot.
        self.gone, self.there = set(), {}

    @staticmethod
    def connect(path):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(60)
        for _ in range(100):
            try:
                sock.connect(str(path))
                # One file for both would forget what it has read ahead when it is written to.
                return sock, sock.makefile("rb")
            except OSError:
                time.sleep(0.1)
        raise Failure(f"{path} does not answer")

    @staticmethod
    def until(done, why):
        for _ in range(600):
            if done():
                return
            time.sleep(0.1)
        raise Failure(why)

    def qmp(self, command, **args):
        if not self.qmp_end:
            self.qmp_end = self.connect(self.qmp_path)
            self.qmp_end[1].readline()
            self.qmp("qmp_capabilities")
        sock, answers = self.qmp_end
        sock.sendall(json.dumps({"execute": command, "arguments": args}).encode() + b"\n")
        while True:
            answer = json.loads(answers.readline())
            if answer.get("event") == "DEVICE_DELETED" and "device" in answer["data"]:
                self.gone.add(answer["data"]["device"])
            if "error" in answer:
                raise Failure(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def qtest(self, command):
        if not self.qtest_end:
            self.qtest_end = self.connect(self.qtest_path)
        sock, answers = self.qtest_end
        sock.sendall(command.encode() + b"\n")
        answer = answers.readline().decode().split()
        if answer[:1] != ["OK"]:
            raise Failure(f"{command}: {answer}")
        return int(answer[1], 16) if len(answer) > 1 else 0

    def config_space(self, device):
        """Where the configuration space of a device is in memory."""
        def find(devices):
            for dev in devices:
                if dev["qdev_id"] == device:
                    return dev
                found = find(dev.get("pci_bridge", {}).get("devices", []))
                if found:
                    return found
            return None
        dev = next(filter(None, (find(bus["devices"]) for bus in self.qmp("query-pci"))), None)
        if not dev:
            raise Failure(f"there is no device {device}")
        return ECAM + (dev["bus"] << 20) + (dev["slot"] << 15) + (dev["function"] << 12)

    def slot_control(self, port):
        base = self.config_space(port)
        cap = self.qtest(f"readb {base + 0x34:#x}")
        while cap:
            if self.qtest(f"readb {base + cap:#x}") == CAP_EXP:
                return base + cap + SLTCTL
            cap = self.qtest(f"readb {base + cap + 1:#x}")
        raise Failure(f"{port} is no slot")

    def slot_state(self, port):
        """For somebody who wonders who is to blame."""
        at = self.slot_control(port)
        there = [o["name"] for o in self.qmp("qom-list", path="/machine/peripheral") if o["name"][:1] == "c"]
        return (f"slot control {self.qtest(f'readw {at:#x}'):#x}, status {self.qtest(f'readw {at + 2:#x}'):#x}, "
                f"devices {' '.join(there) or 'none'}")

    # ---- verbs ----

    def slot_is(self, port, want):
        return self.qtest(f"readw {self.slot_control(port):#x}") & SLOT_OFF == want

    def plug(self, port, card, size, edu="", bits=64):
        """A card in a slot: size MiB of memory, and perhaps a DMA engine that can have addresses of so many bits."""
        if card in self.there:
            self.forget(card)
        # As long as the guest is about to switch the slot off, QEMU would take that for the new card.
        if not self.acpi:
            self.until(lambda: self.slot_is(port, SLOT_OFF), f"{port} is not switched off")
            # And then it looks once more whether there is a card.
            time.sleep(0.5)
        self.gone.discard(card)
        self.there[card] = port
        self.qmp("object-add", **{"qom-type": "memory-backend-ram", "id": f"{card}-mem", "share": True,
                                  "size": int(size) << 20, "reserve": False})
        if edu:
            self.qmp("device_add", driver="edu", id=f"{card}-edu", bus=port, addr="0.1",
                     dma_mask=(1 << int(bits)) - 1)
        self.qmp("device_add", driver="ivshmem-plain", id=card, bus=port, addr="0.0", memdev=f"{card}-mem",
                 multifunction=True)

    def forget(self, card):
        """Wait until the card is gone, and take its memory away: what is plugged next has none of it."""
        try:
            self.until(lambda: self.qmp("query-status") and card in self.gone, f"{card} does not go")
        except Failure as err:
            raise Failure(f"{err}: {self.slot_state(self.there[card])}") from None
        self.qmp("object-del", id=f"{card}-mem")
        del self.there[card]

    def unplug(self, card):
        """The attention button is pressed: the guest does not look at it before the slot is on."""
        if not self.acpi:
            self.until(lambda: self.slot_is(self.there[card], SLOT_ON), f"the slot of {card} is not on")
            time.sleep(0.5)
        self.qmp("device_del", id=card)

    def power(self, port, on):
        at = self.slot_control(port)
        old = self.qtest(f"readw {at:#x}")
        self.qtest(f"writew {at:#x} {old | SLOT_OFF:#x}")
        if on:
            self.qtest(f"writew {at:#x} {old:#x}")

    def power_while_stopped(self, port, on):
        self.qmp("stop")
        try:
            self.power(port, on)
        finally:
            self.qmp("cont")

    def tear(self, port):
        """Torn out: the slot is empty from one instruction to the next, and says so."""
        self.power_while_stopped(port, True)

    def die(self, port):
        """As before, but nobody tells the guest: its driver goes on with a card that does not answer."""
        self.power_while_stopped(port, False)

    def error(self, port):
        """An error that the port reports as fatal: what is in it gets a reset."""
        # As firmware does, other than qboot: errors go up, all the way.
        bridge = port
        while bridge in self.above:
            base = self.config_space(bridge)
            for reg, serr in ((COMMAND, 0x100), (BRIDGE_CONTROL, 0x2)):
                self.qtest(f"writew {base + reg:#x} {self.qtest(f'readw {base + reg:#x}') | serr:#x}")
            bridge = self.above[bridge]
        self.qmp("human-monitor-command", **{"command-line": f"pcie_aer_inject_error {port} DLP"})

    def do(self, line):
        """One line of the guest's script: "ok", or what went wrong."""
        verb, *args = line.split()
        if not re.fullmatch("plug|forget|unplug|tear|die|error", verb):
            return f"what is {verb}?"
        try:
            getattr(self, verb)(*args)
        except (Failure, OSError, LookupError, ValueError, TypeError) as err:
            return str(err).replace("\n", " ") or "failed"
        return "ok"
