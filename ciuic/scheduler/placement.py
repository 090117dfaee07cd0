"""Placement as users write it: which device each layer is on.

A placement is written as assignments ``WHERE=URI`` with commas between, e.g.
``0-9=opencl,10-28=cpu,29=fpga:rtl?config=tiny,head=cpu``. ``WHERE`` is a layer, a range of layers
(both ends included), ``head`` (the product with the vocabulary) or ``*`` (everything that no other
assignment names). What nothing names is on the host.

Behind a layer and a point may stand an operator: the role of a matrix in its layer, as
``ciuic plan --operators`` names them, or an expert. ``3.down=cpu|fpga:emulated`` divides the
columns of layer 3's matrix over two devices, ``1-5.expert.0-7=opencl`` puts experts on a device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ciuic.errors import UsageError

from .problem import HOST

HEAD = "head"
REST = "*"
SHARED = "|"
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
    operators
        (Layer, role or "expert.N") -> URIs of the devices that share it.
    """

    layers: tuple[str, ...]
    head: str
    operators: Mapping[tuple[int, str], tuple[str, ...]] = field(default_factory=dict)

    def renamed(self, name: Callable[[str], str]) -> Placement:
        """Return the same with other names of the devices."""
        return Placement(
            layers=tuple(map(name, self.layers)),
            head=name(self.head),
            operators={part: tuple(map(name, uris)) for part, uris in self.operators.items()},
        )


def parse_placement(spec: str, *, n_layers: int) -> Placement:
    """Return the placement that a specification names.

    Raises
    ------
    UsageError
        If the specification cannot be read, names a layer that the model does not have, or names
        one twice.
    """
    named: dict[int | str, str] = {}
    operators: dict[tuple[int, str], tuple[str, ...]] = {}
    for part in spec.split(","):
        where, found, uri = part.strip().partition("=")
        if not (found and uri):
            raise UsageError(f"--place must be like {EXAMPLE!r}, not {part!r}")
        layers, is_operator, role = where.strip().partition(".")
        if is_operator:
            for layer in _layers(layers, n_layers):
                for name in _roles(role):
                    if (layer, name) in operators:
                        raise UsageError(f"--place must name {layer}.{name} once, not twice")
                    operators[layer, name] = tuple(map(str.strip, uri.split(SHARED)))
            continue
        for place in _places(where.strip(), n_layers):
            if place in named:
                raise UsageError(f"--place must name {_title(place)} once, not twice ({spec!r})")
            named[place] = uri.strip()
    rest = named.get(REST, HOST)
    return Placement(
        layers=tuple(named.get(layer, rest) for layer in range(n_layers)),
        head=named.get(HEAD, rest),
        operators=operators,
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


def _layers(where: str, n_layers: int) -> list[int]:
    if where == REST:
        return list(range(n_layers))
    return [place for place in _places(where, n_layers) if isinstance(place, int)]


def _roles(role: str) -> list[str]:
    """Return the names that a role stands for: several of a range of experts."""
    match = re.fullmatch(r"expert\.(\d+)-(\d+)", role)
    if match is None:
        return [role]
    return [f"expert.{expert}" for expert in range(int(match[1]), int(match[2]) + 1)]


def _title(place: int | str) -> str:
    return f"layer {place}" if isinstance(place, int) else repr(place)
