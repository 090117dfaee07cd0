"""Names of FPGA devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ciuic_host import uri
from ciuic_host.uri import Options

from ciuic.errors import DeviceNotFound, UsageError


def test_a_name_has_a_kind_and_options() -> None:
    kind, options = uri.parse("fpga:rtl?config=tiny&stall=5")
    assert kind == "rtl"
    assert options.text("config", "sim", ["sim", "tiny"]) == "tiny"
    assert options.integer("stall", 0, 0, 95) == 5
    assert options.flag("shadow", True) is True
    options.check_all_known()


@pytest.mark.parametrize("name", ["", "fpga", "fpga:", "cpu:0", "fpga://rtl", "fpga:rtl#x"])
def test_a_name_that_is_none_is_an_error(name: str) -> None:
    message = f"FPGA device must be fpga:<kind>[@address][?option=value], not {name!r}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        uri.parse(name)


def test_a_name_may_have_the_address_of_a_machine() -> None:
    kind, options = uri.parse("fpga:pynq@192.0.2.7:7968?poll=1")
    assert (kind, options.address(), options.flag("poll", False)) == (
        "pynq",
        "192.0.2.7:7968",
        True,
    )
    options.check_all_known()
    assert uri.parse("fpga:pynq")[1].address() is None


def test_an_address_is_an_error_where_devices_are_on_this_machine() -> None:
    message = "fpga:emulated@192.0.2.7: device must be on this machine, not @192.0.2.7"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        uri.open_transport("fpga:emulated@192.0.2.7")
    with pytest.raises(UsageError, match=r"^fpga:pynq@: there must be an address behind @$"):
        uri.parse("fpga:pynq@")


def test_an_option_may_be_a_path() -> None:
    _, options = uri.parse("fpga:x?bitstream=/a%20b/c.bit")
    assert options.path("bitstream") == Path("/a b/c.bit")
    assert options.path("report") is None


@pytest.mark.parametrize("query", ["config", "&", "config=a&x"])
def test_options_must_have_values(query: str) -> None:
    message = f"fpga:x?{query}: options must be name=value, not {query!r}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        uri.parse(f"fpga:x?{query}")


def test_an_option_given_twice_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"must be given once, not twice$"):
        uri.parse("fpga:x?a=1&a=2")


@pytest.mark.parametrize("value", ["-1", "96", "x", "", "1.5", "٣"])
def test_an_integer_out_of_range_is_an_error(value: str) -> None:
    options = Options("fpga:x", {"stall": value})
    message = f"fpga:x: stall must be an integer from 0 to 95, not {value!r}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        options.integer("stall", 0, 0, 95)


def test_a_word_that_is_no_choice_is_an_error() -> None:
    options = Options("fpga:x", {"config": "big"})
    with pytest.raises(
        UsageError, match=r"^fpga:x: config must be one of \['sim', 'tiny'\], not 'big'$"
    ):
        options.text("config", "sim", ["tiny", "sim"])


def test_an_unknown_option_is_an_error_that_names_the_known_ones() -> None:
    options = Options("fpga:x", {"confg": "tiny"})
    options.text("config", "tiny", ["tiny"])
    options.flag("shadow", True)
    with pytest.raises(
        UsageError, match=r"^fpga:x: option must be one of \['config', 'shadow'\], not 'confg'$"
    ):
        options.check_all_known()


def test_an_unknown_kind_is_an_error_that_names_the_known_ones() -> None:
    kinds = sorted(uri.transports())
    message = f"no device 'fpga:nonsense': kind must be one of {kinds}, not 'nonsense'"
    with pytest.raises(DeviceNotFound, match=f"^{re.escape(message)}$"):
        uri.open_transport("fpga:nonsense")


def test_the_report_reaches_the_transport() -> None:
    calls: list[tuple[str, int, int]] = []
    _, options = uri.parse("fpga:x", lambda *call: calls.append(call))
    options.report("building", 1, 2)
    assert calls == [("building", 1, 2)]
