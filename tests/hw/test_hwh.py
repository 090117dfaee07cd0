"""The `.hwh` says what the address map says; PYNQ's own parser finds it there."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from ciuic.abi import ADDRESS_MAPS, BOARD_MEMORY_BYTES, CONFIGS, OverlayConfig, registers
from ciuic.abi.boards import CONTROLLER, INSTANCE, VLNV
from ciuic.errors import UsageError

pytest.importorskip("pynqmetadata", reason="needs pynqmetadata: pip install 'ciuic[dev]'")

from ciuic_hw.build.boards import BOARDS
from ciuic_hw.build.hwh import ACCESS, hwh_text
from ciuic_hw.build.zynq import PROCESSING_SYSTEMS, check_fits
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime.runtime_metadata_parser import RuntimeMetadataParser

# What a processor sees of the programmable logic: AMD UG585, table 4-1; UG1085, table 10-1.
WINDOWS = {"zynq-7000": (0x4000_0000, 0x7FFF_FFFF), "zynq-ultrascale+": (0xA000_0000, 0xAFFF_FFFF)}
RAW_INTERRUPT = {"zynq-7000": 61, "zynq-ultrascale+": 121}
ZYNQ = sorted(ADDRESS_MAPS)


def read(board: str, config: OverlayConfig, folder: Path) -> Any:
    path = folder / f"{board}.hwh"
    path.write_text(hwh_text(BOARDS[board], config))
    return Metadata(str(path))


def parse(board: str, config: OverlayConfig, folder: Path) -> Any:
    return RuntimeMetadataParser(read(board, config, folder))


@pytest.mark.parametrize("board", ZYNQ)
def test_registers_are_where_processors_look_for_them(board: str) -> None:
    addresses = ADDRESS_MAPS[board]
    assert addresses.control.span == registers.SPAN
    assert max(register.offset for register in registers.REGISTERS) + 4 <= registers.SPAN
    low, high = WINDOWS[addresses.family]
    for region in (addresses.control, addresses.interrupt_controller):
        assert low <= region.base
        assert region.last <= high
    everything = (addresses.control, addresses.interrupt_controller, *addresses.memory)
    for region in everything:
        assert region.base % region.span == 0
    assert not any(one.overlaps(other) for one, other in combinations(everything, 2))
    assert sum(region.span for region in addresses.memory) == BOARD_MEMORY_BYTES[board]


@pytest.mark.parametrize("board", ZYNQ)
def test_pynq_finds_the_overlay_with_its_registers(board: str, tmp_path: Path) -> None:
    addresses = ADDRESS_MAPS[board]
    found = parse(board, CONFIGS[board], tmp_path)
    overlay, controller = found.ip_dict[INSTANCE], found.ip_dict[CONTROLLER]
    assert overlay["type"] == VLNV
    assert (overlay["phys_addr"], overlay["addr_range"]) == (
        addresses.control.base,
        addresses.control.span,
    )
    region = addresses.interrupt_controller
    assert (controller["phys_addr"], controller["addr_range"]) == (region.base, region.span)
    assert set(overlay["registers"]) == {register.name for register in registers.REGISTERS}
    for register in registers.REGISTERS:
        shown = overlay["registers"][register.name]
        assert shown["address_offset"] == register.offset
        assert shown["size"] == 32
        assert shown["access"] == ACCESS[register.access]
        assert {
            name: (field["bit_offset"], field["bit_width"])
            for name, field in shown["fields"].items()
        } == {bits.name: (bits.low, bits.width) for bits in register.fields}


@pytest.mark.parametrize("board", ZYNQ)
def test_pynq_finds_interrupt_and_clock(board: str, tmp_path: Path) -> None:
    family = ADDRESS_MAPS[board].family
    found = parse(board, CONFIGS[board], tmp_path)
    assert found.interrupt_controllers == {
        CONTROLLER: {"parent": "", "index": 0, "raw_irq": RAW_INTERRUPT[family]}
    }
    pin = found.interrupt_pins[f"{INSTANCE}/interrupt"]
    assert (pin["controller"], pin["index"]) == (CONTROLLER, 0)
    clocks = dict(found.clock_dict.items())
    assert [clock["enable"] for clock in clocks.values()] == [1, 0, 0, 0]
    system = PROCESSING_SYSTEMS[family]
    assert found.family_ps == system.kind
    divided = system.pll_hz / (clocks[0]["divisor0"] * clocks[0]["divisor1"])
    assert 0.9 * CONFIGS[board].clock_hz < divided <= CONFIGS[board].clock_hz


@pytest.mark.parametrize("board", ZYNQ)
@pytest.mark.parametrize("ports", [1, 2, 4])
def test_every_memory_port_reaches_all_memory(board: str, ports: int, tmp_path: Path) -> None:
    addresses = ADDRESS_MAPS[board]
    found = read(board, replace(CONFIGS[board], ports=ports, attention=False), tmp_path)
    masters = {
        name: port
        for name, port in found.blocks[INSTANCE].ports.items()
        if name.startswith("memory")
    }
    assert list(masters) == ["memory", "memory_1", "memory_2", "memory_3"][:ports]
    for index, port in enumerate(masters.values()):
        slave = PROCESSING_SYSTEMS[addresses.family].memory[index]
        assert [(one["baseaddr"], one["addr_range"]) for one in port.addrmap.values()] == [
            (region.base, region.span) for region in addresses.memory
        ]
        assert all(f":{slave}[" in ref for ref in port.addrmap)


def test_a_clock_is_never_faster_than_wanted() -> None:
    for system in PROCESSING_SYSTEMS.values():
        for wanted in (1e6, 33e6, 100e6, 142.9e6, 200e6, 333e6):
            clock = system.pl_clock(wanted)
            assert 0.75 * wanted < clock.hz <= wanted
            assert clock.hz == system.pll_hz / (clock.divisors[0] * clock.divisors[1])


@pytest.mark.parametrize(
    ("board", "change", "message"),
    [
        ("pynq-z2", {"bus_bytes": 16}, "x: bus_bytes must be at most 8, not 16"),
        ("kv260", {}, "x: address_bits must be at least 36 to reach the memory, not 32"),
    ],
)
def test_an_overlay_that_cannot_be_connected_is_refused(
    board: str, change: dict[str, int], message: str
) -> None:
    config = OverlayConfig(name="x", rows=8, cols=8, **change)
    with pytest.raises(UsageError, match=f"^{message}$"):
        check_fits(ADDRESS_MAPS[board], config)
