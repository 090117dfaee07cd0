"""The hardware handoff file that Vivado would write for a board: what PYNQ reads of it.

`pynq.Overlay` takes addresses, registers, interrupts and clocks from it. The simulated board and
bitstreams of open tools have no other. Which tags and attributes PYNQ reads is known from
pynqmetadata 0.2 (``frontends/hwh_frontend.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ciuic.abi import ADDRESS_MAPS, AddressMap, OverlayConfig, Region, registers
from ciuic.abi.boards import CONTROLLER, INSTANCE, VLNV

from .boards import Board
from .zynq import ProcessingSystem, check_fits

__all__ = ["ACCESS", "hwh_text"]

ACCESS = {"R": "read-only", "W": "write-only", "RW": "read-write", "W1C": "read-write"}
AXI = "xilinx.com:interface:aximm:1.0"
INTERCONNECT = "control_interconnect"
RESET = "reset_0"

Connections = Iterable[tuple[str, str]]  # instance, pin


def hwh_text(board: Board, config: OverlayConfig) -> str:
    """Return the `.hwh` of a board with an overlay.

    Raises
    ------
    UsageError
        If the overlay cannot be connected to the board's processing system.
    """
    addresses = ADDRESS_MAPS[board.name]
    system = check_fits(addresses, config)
    root = Element("EDKSYSTEM", EDWVERSION="1.2")
    SubElement(root, "SYSTEMINFO", NAME=INSTANCE, ARCH=board.part)
    SubElement(root, "EXTERNALPORTS")
    SubElement(root, "EXTERNALINTERFACES")
    modules = SubElement(root, "MODULES")
    modules.append(_processing_system(system, addresses, config))
    modules.append(_overlay(system, addresses, config))
    modules.append(_controller(system, addresses))
    modules.append(_interconnect(system))
    modules.append(_reset(system))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _module(instance: str, vlnv: str, parameters: dict[str, str] | None = None) -> Element:
    module = Element(
        "MODULE",
        FULLNAME=f"/{instance}",
        INSTANCE=instance,
        MODTYPE=vlnv.split(":")[2],
        VLNV=vlnv,
        IS_ENABLE="1",
    )
    values = SubElement(module, "PARAMETERS")
    for name, value in (parameters or {}).items():
        SubElement(values, "PARAMETER", NAME=name, VALUE=value)
    SubElement(module, "PORTS")
    SubElement(module, "BUSINTERFACES")
    return module


def _child(module: Element, tag: str) -> Element:
    found = module.find(tag)
    return SubElement(module, tag) if found is None else found


def _pin(module: Element, direction: str, name: str, kind: str, connections: Connections) -> None:
    pin = SubElement(_child(module, "PORTS"), "PORT", DIR=direction, NAME=name, SIGIS=kind)
    joined = SubElement(pin, "CONNECTIONS")
    for instance, other in connections:
        SubElement(joined, "CONNECTION", INSTANCE=instance, PORT=other)


def _interface(module: Element, kind: str, name: str, net: str, **parameters: object) -> None:
    interface = SubElement(
        _child(module, "BUSINTERFACES"),
        "BUSINTERFACE",
        BUSNAME=net,
        NAME=name,
        TYPE=kind,
        VLNV=AXI,
    )
    for key, value in parameters.items():
        SubElement(interface, "PARAMETER", NAME=key, VALUE=str(value))
    SubElement(interface, "PORTMAPS")


def _range(
    module: Element, master: str, instance: str, slave: str, block: str, region: Region, kind: str
) -> None:
    SubElement(
        _child(module, "MEMORYMAP"),
        "MEMRANGE",
        ADDRESSBLOCK=block,
        BASENAME="C_BASEADDR",
        BASEVALUE=f"{region.base:#010x}",
        HIGHNAME="C_HIGHADDR",
        HIGHVALUE=f"{region.last:#010x}",
        INSTANCE=instance,
        MASTERBUSINTERFACE=master,
        SLAVEBUSINTERFACE=slave,
        MEMTYPE=kind,
    )


def _memory_ports(config: OverlayConfig) -> Iterator[tuple[int, str]]:
    for port in range(config.ports):
        yield port, f"memory_{port}" if port else "memory"


def _processing_system(
    system: ProcessingSystem, addresses: AddressMap, config: OverlayConfig
) -> Element:
    parameters = system.parameters(config) | system.achieved(config)
    module = _module(system.instance, system.vlnv, parameters)
    clocked = [
        (INSTANCE, "clk"),
        (CONTROLLER, "s_axi_aclk"),
        (RESET, "slowest_sync_clk"),
        (INTERCONNECT, "aclk"),
    ]
    _pin(module, "O", system.clock, "clk", clocked)
    _pin(module, "O", system.reset, "rst", [(RESET, "ext_reset_in")])
    _pin(module, "I", system.interrupt, "INTERRUPT", [(CONTROLLER, "irq")])
    _interface(module, "MASTER", system.control, "control_master", DATA_WIDTH=32)
    for port, name in _memory_ports(config):
        _interface(
            module,
            "SLAVE",
            system.memory[port],
            f"{INSTANCE}_{name}",
            DATA_WIDTH=config.bus_bytes * 8,
        )
    registers_of = (
        (INSTANCE, "control", addresses.control),
        (CONTROLLER, "s_axi", addresses.interrupt_controller),
    )
    for instance, slave, region in registers_of:
        _range(module, system.control, instance, slave, "Reg", region, "REGISTER")
    return module


def _overlay(system: ProcessingSystem, addresses: AddressMap, config: OverlayConfig) -> Element:
    module = _module(INSTANCE, VLNV)
    _address_block(module, addresses.control)
    _pin(module, "I", "clk", "clk", [(system.instance, system.clock)])
    _pin(module, "I", "rst", "rst", [(RESET, "peripheral_reset")])
    _pin(module, "O", "interrupt", "INTERRUPT", [(CONTROLLER, "intr")])
    _interface(module, "SLAVE", "control", "control_overlay", DATA_WIDTH=32, PROTOCOL="AXI4LITE")
    for port, name in _memory_ports(config):
        _interface(
            module,
            "MASTER",
            name,
            f"{INSTANCE}_{name}",
            DATA_WIDTH=config.bus_bytes * 8,
            PROTOCOL="AXI3" if system.axi3 else "AXI4",
        )
        for segment, region in zip(system.memory_segments(port), addresses.memory, strict=True):
            block = segment.partition("/")[2]
            _range(module, name, system.instance, system.memory[port], block, region, "MEMORY")
    return module


def _address_block(module: Element, region: Region) -> None:
    block = SubElement(
        SubElement(module, "ADDRESSBLOCKS"),
        "ADDRESSBLOCK",
        ACCESS="read-write",
        INTERFACE="control",
        NAME="Reg",
        RANGE=str(region.span),
        USAGE="register",
    )
    found = SubElement(block, "REGISTERS")
    for register in registers.REGISTERS:
        one = SubElement(found, "REGISTER", NAME=register.name)
        _properties(one, register.access, ADDRESS_OFFSET=f"{register.offset:#x}", SIZE="32")
        fields = SubElement(one, "FIELDS")
        for bits in register.fields:
            field = SubElement(fields, "FIELD", NAME=bits.name)
            _properties(field, register.access, BIT_OFFSET=str(bits.low), BIT_WIDTH=str(bits.width))


def _properties(element: Element, access: registers.Access, **values: str) -> None:
    for name, value in {**values, "ACCESS": ACCESS[access], "IS_ENABLED": "true"}.items():
        SubElement(element, "PROPERTY", NAME=name, VALUE=value)


def _controller(system: ProcessingSystem, addresses: AddressMap) -> Element:
    # Level out: PYNQ waits on the first interrupt of the processors, which is level-sensitive.
    module = _module(CONTROLLER, "xilinx.com:ip:axi_intc:4.1", {"C_IRQ_CONNECTION": "1"})
    _pin(module, "I", "s_axi_aclk", "clk", [(system.instance, system.clock)])
    _pin(module, "I", "s_axi_aresetn", "rst", [(RESET, "peripheral_aresetn")])
    _pin(module, "I", "intr", "INTERRUPT", [(INSTANCE, "interrupt")])
    _pin(module, "O", "irq", "INTERRUPT", [(system.instance, system.interrupt)])
    _interface(module, "SLAVE", "s_axi", "control_interrupts", DATA_WIDTH=32, PROTOCOL="AXI4LITE")
    return module


def _interconnect(system: ProcessingSystem) -> Element:
    parameters = {"NUM_SI": "1", "NUM_MI": "2"}
    module = _module(INTERCONNECT, "xilinx.com:ip:smartconnect:1.0", parameters)
    _pin(module, "I", "aclk", "clk", [(system.instance, system.clock)])
    _pin(module, "I", "aresetn", "rst", [(RESET, "interconnect_aresetn")])
    _interface(module, "SLAVE", "S00_AXI", "control_master")
    _interface(module, "MASTER", "M00_AXI", "control_overlay")
    _interface(module, "MASTER", "M01_AXI", "control_interrupts")
    return module


def _reset(system: ProcessingSystem) -> Element:
    module = _module(RESET, "xilinx.com:ip:proc_sys_reset:5.0")
    _pin(module, "I", "slowest_sync_clk", "clk", [(system.instance, system.clock)])
    _pin(module, "I", "ext_reset_in", "rst", [(system.instance, system.reset)])
    _pin(module, "O", "peripheral_reset", "rst", [(INSTANCE, "rst")])
    _pin(module, "O", "peripheral_aresetn", "rst", [(CONTROLLER, "s_axi_aresetn")])
    _pin(module, "O", "interconnect_aresetn", "rst", [(INTERCONNECT, "aresetn")])
    return module
