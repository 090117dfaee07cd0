"""Placement as users write it."""

from __future__ import annotations

import pytest

from ciuic.errors import UsageError
from ciuic.scheduler import Placement, parse_placement

LAYERS = 6


@pytest.mark.parametrize(
    ("spec", "layers", "head"),
    [
        ("*=opencl", ["opencl"] * 6, "opencl"),
        ("head=opencl", ["cpu"] * 6, "opencl"),
        ("0=fpga:rtl", ["fpga:rtl", *["cpu"] * 5], "cpu"),
        ("0-1=a,2-4=b,5=c,head=d", ["a", "a", "b", "b", "b", "c"], "d"),
        (" 1-2 = a , * = b ", ["b", "a", "a", "b", "b", "b"], "b"),
        ("5=fpga:rtl?config=tiny&verify=1", [*["cpu"] * 5, "fpga:rtl?config=tiny&verify=1"], "cpu"),
        ("3-3=a,head=cpu,*=b", ["b", "b", "b", "a", "b", "b"], "cpu"),
    ],
)
def test_specification(spec: str, layers: list[str], head: str) -> None:
    assert parse_placement(spec, n_layers=LAYERS) == Placement(layers=tuple(layers), head=head)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "--place must be like '0-9=opencl,10-28=cpu,29=fpga:rtl,head=cpu', not ''"),
        ("opencl", "--place must be like .*, not 'opencl'"),
        ("0=", "--place must be like .*, not '0='"),
        ("0=cpu,", "--place must be like .*, not ''"),
        ("6=cpu", "--place must name layers from 0 to 5, not '6'"),
        ("0-6=cpu", "--place must name layers from 0 to 5, not '0-6'"),
        ("3-2=cpu", "--place must name layers from 0 to 5, not '3-2'"),
        ("-1=cpu", "--place must name a layer, a range like 0-9, 'head' or '[*]', not '-1'"),
        ("tail=cpu", "--place must name a layer, .*, not 'tail'"),
        ("=cpu", "--place must name a layer, .*, not ''"),
        ("0-3=cpu,2=opencl", "--place must name layer 2 once, not twice .*"),
        ("*=cpu,*=opencl", "--place must name '[*]' once, not twice .*"),
        ("head=cpu,head=cpu", "--place must name 'head' once, not twice .*"),
    ],
)
def test_specification_that_cannot_be_read(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        parse_placement(spec, n_layers=LAYERS)
