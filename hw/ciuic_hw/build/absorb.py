"""Give multipliers and block RAM of ECP5 the registers that stand at their ports.

A MULT18X18D has registers at its inputs, within and at its output, a DP16KD one at its output; with
them they are two to six times as fast (Lattice FPGA-TN-02205, FPGA-TN-02204). Yosys does not use
them. This pass moves registers of the mapped netlist into them, which changes no function: a
register without a reset that starts with zero may stand before, within or behind a multiplier.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["absorb"]

Bit = int | str  # number of a net, or a constant
Cell = dict[str, Any]


@dataclass(frozen=True)
class Control:
    """What clocks and enables a register."""

    clock: Bit
    enable: Bit


class Netlist:
    """A flat module of Yosys' JSON, with the drivers and the loads of its nets."""

    def __init__(self, module: dict[str, Any]):
        self.cells: dict[str, Cell] = module["cells"]
        self.driver: dict[Bit, tuple[str, str]] = {}
        self.loads: dict[Bit, Counter[tuple[str, str]]] = defaultdict(Counter)
        for port in module["ports"].values():
            if port["direction"] != "input":
                for bit in port["bits"]:
                    self.loads[bit]["", "port"] += 1
        for name in self.cells:
            self._enter(name, 1)

    def _enter(self, name: str, sign: int) -> None:
        cell = self.cells[name]
        for port, bits in cell["connections"].items():
            for bit in bits:
                if cell["port_directions"][port] == "input":
                    self.loads[bit][name, port] += sign
                elif sign > 0:
                    self.driver[bit] = (name, port)

    def register(self, name: str) -> Control | None:
        """Return the control of a register that may be moved; none for any other cell."""
        cell = self.cells.get(name)
        if cell is None or cell["type"] != "TRELLIS_FF":
            return None
        parameters = {key: value.strip() for key, value in cell["parameters"].items()}
        wires = cell["connections"]
        reset = wires.get("LSR", ["0"])[0]
        plain = parameters.get("CLKMUX", "CLK") == "CLK" and "M" not in wires
        if reset != "0" or not plain or parameters.get("REGSET", "RESET") != "RESET":
            return None
        mux = parameters.get("CEMUX", "CE")
        if mux not in ("1", "CE"):
            return None
        return Control(wires["CLK"][0], "1" if mux == "1" else wires["CE"][0])

    def behind(self, bits: Iterable[Bit]) -> tuple[dict[Bit, str], Control] | None:
        """Return the registers that are the only loads of bits, if they share their control."""
        found: dict[Bit, str] = {}
        controls: set[Control | None] = set()
        for bit in bits:
            loads = [load for load, count in self.loads[bit].items() if count]
            if not loads:
                continue
            (name, port), *others = loads
            if others or port != "DI":
                return None
            found[bit] = name
            controls.add(self.register(name))
        (control,) = controls if len(controls) == 1 else (None,)
        return (found, control) if control else None

    def before(self, bits: Iterable[Bit]) -> tuple[dict[Bit, str], Control] | None:
        """Return the registers that drive bits, constants apart, if they share their control."""
        found: dict[Bit, str] = {}
        controls: set[Control | None] = set()
        for bit in bits:
            if bit == "0":
                continue
            name, _ = self.driver.get(bit, ("", ""))
            found[bit] = name
            controls.add(self.register(name) if name else None)
        (control,) = controls if len(controls) == 1 else (None,)
        return (found, control) if control else None

    def rewire(self, name: str, ports: Iterable[str], become: dict[Bit, Bit]) -> None:
        """Connect ports of a cell to other nets."""
        self._enter(name, -1)
        wires = self.cells[name]["connections"]
        for port in ports:
            wires[port] = [become.get(bit, bit) for bit in wires[port]]
        self._enter(name, 1)

    def connect(self, name: str, port: str, bit: Bit) -> None:
        """Connect an input of a cell."""
        cell = self.cells[name]
        self._enter(name, -1)
        cell["port_directions"][port] = "input"
        cell["connections"][port] = [bit]
        self._enter(name, 1)

    def disconnect(self, name: str, ports: Iterable[str]) -> None:
        """Leave ports of a cell open."""
        cell = self.cells[name]
        self._enter(name, -1)
        for port in ports:
            del cell["connections"][port], cell["port_directions"][port]
        self._enter(name, 1)

    def remove(self, names: Iterable[str]) -> None:
        """Remove cells."""
        for name in set(names):
            self._enter(name, -1)
            del self.cells[name]

    def wire(self, name: str, port: str) -> Bit:
        """Return the net at a port of one bit."""
        bit: Bit = self.cells[name]["connections"][port][0]
        return bit

    def remove_unused(self, names: Iterable[str]) -> None:
        """Remove those registers that drive nothing any more."""
        self.remove(n for n in set(names) if not any(self.loads[self.wire(n, "Q")].values()))


def absorb(module: dict[str, Any]) -> Counter[str]:
    """Move registers into the multipliers and block RAM of a netlist, in place.

    Parameters
    ----------
    module
        The top module of Yosys' JSON after ``synth_ecp5``, flat.

    Returns
    -------
    Counter
        How many cells got which register.
    """
    netlist = Netlist(module)
    done: Counter[str] = Counter()
    for name, cell in list(netlist.cells.items()):
        if cell["type"] == "MULT18X18D":
            done += _multiplier(netlist, name)
        elif cell["type"] == "DP16KD":
            done += _memory(netlist, name)
    return done


def _ports(cell: Cell, prefix: str) -> list[str]:
    """Return the ports of one bus: P0, P1 ..."""
    return [
        port
        for port in cell["connections"]
        if port.startswith(prefix) and port[len(prefix) :].isdigit()
    ]


def _bits(cell: Cell, ports: Iterable[str]) -> list[Bit]:
    return [bit for port in ports for bit in cell["connections"][port]]


def _swallow(netlist: Netlist, name: str, ports: list[str]) -> Control | None:
    """Let a cell drive what the registers behind it drove; return their control, if there are."""
    found = netlist.behind(_bits(netlist.cells[name], ports))
    if found is None:
        return None
    registers, control = found
    become = {bit: netlist.wire(register, "Q") for bit, register in registers.items()}
    netlist.remove(registers.values())
    netlist.rewire(name, ports, become)
    return control


def _leave_open(netlist: Netlist, name: str) -> None:
    """Take the zeros off operand C, which a plain product does not read; each takes a wire."""
    cell = netlist.cells[name]
    netlist.disconnect(name, [p for p in _ports(cell, "C") if cell["connections"][p] == ["0"]])


def _multiplier(netlist: Netlist, name: str) -> Counter[str]:
    _leave_open(netlist, name)
    cell = netlist.cells[name]
    ports = _ports(cell, "P")
    outputs = [c for c in (_swallow(netlist, name, ports) for _ in range(2)) if c is not None]
    places = dict(zip(("PIPELINE", "OUTPUT")[-len(outputs) or 2 :], outputs, strict=True))
    for operand in "AB":
        ports = _ports(cell, operand)
        found = netlist.before(_bits(cell, ports))
        if found is None:
            continue
        registers, places[f"INPUT{operand}"] = found
        become = {bit: netlist.wire(register, "DI") for bit, register in registers.items()}
        netlist.rewire(name, ports, become)
        netlist.remove_unused(registers.values())
    if not places:
        return Counter()
    (clock,) = {control.clock for control in places.values()}
    netlist.connect(name, "CLK0", clock)
    netlist.connect(name, "RST0", "0")
    enables = list(dict.fromkeys(control.enable for control in places.values()))  # four at most
    for index, enable in enumerate(enables):
        netlist.connect(name, f"CE{index}", enable)
    for place, control in places.items():
        cell["parameters"] |= {
            f"REG_{place}_CLK": "CLK0",
            f"REG_{place}_CE": f"CE{enables.index(control.enable)}",
            f"REG_{place}_RST": "RST0",
        }
    return Counter(f"MULT18X18D {place}" for place in places)


def _memory(netlist: Netlist, name: str) -> Counter[str]:
    cell = netlist.cells[name]
    control = _swallow(netlist, name, _ports(cell, "DOA") + _ports(cell, "DOB"))
    if control is None:
        return Counter()
    for side in "AB":
        cell["parameters"][f"REGMODE_{side}"] = "OUTREG"
        netlist.connect(name, f"OCE{side}", control.enable)
    return Counter(["DP16KD OUTPUT"])
