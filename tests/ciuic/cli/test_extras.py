"""The table of extras says what the package metadata says."""

from __future__ import annotations

import importlib.metadata
import re

from ciuic.cli.extras import EXTRAS, extra_of_module


def test_extras_are_those_of_the_distribution() -> None:
    declared: dict[str, set[str]] = {}
    for line in importlib.metadata.requires("ciuic") or []:
        extra = re.search(r"extra == '([^']+)'", line)
        name = re.match(r"[\w.-]+", line)
        assert name is not None
        if extra is not None and name[0] != "ciuic":
            declared.setdefault(extra[1], set()).add(name[0].lower())
    for name in (
        "dev",
        "test-pynq",
        "opencl-cpu",
    ):  # tools, and a runtime that Python does not import
        del declared[name]
    listed = {extra.name: {package.distribution for package in extra.packages} for extra in EXTRAS}
    assert listed.keys() == declared.keys()
    assert all(listed[name] <= declared[name] for name in listed)
    assert set().union(*listed.values()) == set().union(*declared.values())


def test_module_leads_to_its_extra() -> None:
    gguf, axi = extra_of_module("gguf"), extra_of_module("cocotbext.axi.axi_master")
    assert gguf is not None
    assert gguf.install == "python -m pip install 'ciuic[model]'"
    assert axi is not None
    assert axi.name == "sim"
    assert extra_of_module("numpy") is None
