"""The simulation of a configuration's overlay, built only when its gateware changes."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from ciuic_host.uri import Report, no_report

from ciuic.abi import OverlayConfig

from . import build, cache, tools

STEPS = 1 + build.LIBRARY_STEPS


def overlay_library(config: OverlayConfig, report: Report = no_report) -> Path:
    """Return the compiled simulation of a configuration's overlay.

    Raises
    ------
    ToolMissing
        If a program that the build needs is not installed.
    """
    what, done = f"building the RTL simulation of {config.name}", 0

    def step() -> None:
        nonlocal done
        done += 1
        report(what, done, STEPS)

    rtlil = netlist(config)
    step()
    library = build.shared_library(rtlil, step, ports=config.ports)
    if done < STEPS:  # it was there already
        report(what, STEPS, STEPS)
    return library


def netlist(config: OverlayConfig) -> str:
    """Return the RTLIL of a configuration's overlay."""
    tools.package_folder("amaranth", "amaranth", "RTL simulation")
    from ciuic_hw.sources import build_hash

    def elaborate(folder: Path) -> None:
        from ciuic_hw.verilog import rtlil_text

        (folder / "overlay.il").write_text(rtlil_text(config))

    # Elaboration takes seconds; its result depends on these alone.
    version = importlib.metadata.version("amaranth")
    key = cache.content_key(f"{build_hash():08x}", repr(config), version)
    return (build.timed("netlist", key, elaborate) / "overlay.il").read_text()
