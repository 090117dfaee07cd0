"""Placement as users write it: which device each layer is on.

A placement is written as assignments ``WHERE=URI`` with commas between, e.g.
``0-9=opencl,10-28=cpu,29=fpga:rtl?config=tiny,head=cpu``. ``WHERE`` is a layer, a range of layers
(both ends included), ``head`` (the product with the vocabulary) or ``*`` (everything that no other
assignment names). What nothing names is on the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ciuic.errors import UsageError

from .problem import HOST

HEAD = "head"
REST = "*"
EXAMPLE = "0-9=opencl,10-28=cpu,29=fpga:rtl,head=cpu"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device of each layer.

    Attributes
    ----------
    layers
        URI of each layer's device.
    head
        URI of the device of the output head.
    """

    layers: tuple[str, ...]
    head: str


def parse_placement(spec: str, *, n_layers: int) -> Placement:
    """Return the placement that a specification names.

    Raises
    ------
    UsageError
        If the specification cannot be read, names a layer that the model does not have, or names
        one twice.
    """
    named: dict[int | str, str] = {}
    for part in spec.split(","):
        where, found, uri = part.strip().partition("=")
        if not (found and uri):
            raise UsageError(f"--place must be like {EXAMPLE!r}, not {part!r}")
        for place in _places(where.strip(), n_layers):
            if place in named:
                raise UsageError(f"--place must name {_title(place)} once, not twice ({spec!r})")
            named[place] = uri.strip()
    rest = named.get(REST, HOST)
    return Placement(
        layers=tuple(named.get(layer, rest) for layer in range(n_layers)),
        head=named.get(HEAD, rest),
    )


def _places(where: str, n_layers: int) -> list[int | str]:
    if where in (HEAD, REST):
        return [where]
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", where)
    if match is None:
        raise UsageError(
            f"--place must name a layer, a range like 0-9, 'head' or '*', not {where!r}"
        )
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if not first <= last < n_layers:
        raise UsageError(f"--place must name layers from 0 to {n_layers - 1}, not {where!r}")
    return list(range(first, last + 1))


def _title(place: int | str) -> str:
    return f"layer {place}" if isinstance(place, int) else repr(place)
