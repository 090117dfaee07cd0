"""Stages: which device does which part of a chain when batches follow one another.

While one device works on a batch, the device before it in the chain works on the next. What counts
is then the slowest stage, not the sum of all. Decides; touches no device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from ciuic.errors import PlacementError

from .problem import HOST

MAX_DEVICES = 8  # subsets of the devices are gone through


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Layers [start, stop) of a chain on one device.

    ``seconds`` is its time for one batch, the transfer of its input included; ``nbytes`` what its
    weights take there.
    """

    device: str
    start: int
    stop: int
    seconds: float
    nbytes: int


def best_stages(
    costs: Sequence[Mapping[str, float]],
    transfer: Callable[[str, str, int], float],
    sizes: Sequence[Mapping[str, int]],
    room: Mapping[str, int],
) -> list[Stage]:
    """Return the stages whose slowest is fastest; of equals, those with less bytes off the host.

    Exact, by going through every first stage and every set of devices that is left: each device
    has at most one stage, of neighbouring layers, and may have none. One device alone is among
    the candidates, so the result is never predicted to be worse than the best of these.

    Parameters
    ----------
    costs
        For each layer, device URI -> seconds. A layer is only put on a device that it names.
    transfer
        Seconds to move what goes between layer i - 1 and layer i, by (source, target, i).
    sizes
        For each layer, device URI -> bytes that its weights take there.
    room
        Device URI -> bytes available.

    Raises
    ------
    PlacementError
        If no stages hold all layers.
    """
    devices = sorted({device for here in costs for device in here})
    if not costs or len(devices) > MAX_DEVICES:
        raise PlacementError(
            f"a chain must have layers and at most {MAX_DEVICES} devices, "
            f"not {len(costs)} and {len(devices)}"
        )
    count = len(costs)
    seconds = {d: [0.0, *accumulate(c.get(d, 0.0) for c in costs)] for d in devices}
    nbytes = {d: [0, *accumulate(s.get(d, 0) for s in sizes)] for d in devices}

    def stage(device: str, source: str, start: int, stop: int) -> Stage:
        time = sum(here.get(device, float("inf")) for here in costs[start:stop])
        time += transfer(source, device, start)
        if stop == count:
            time += transfer(device, HOST, count)
        taken = nbytes[device][stop] - nbytes[device][start]
        return Stage(device=device, start=start, stop=stop, seconds=time, nbytes=taken)

    @cache
    def best(start: int, source: str, left: frozenset[str]) -> tuple[float, int, tuple[Stage, ...]]:
        if start == count:
            return 0.0, 0, ()
        found: tuple[float, int, tuple[Stage, ...]] = (float("inf"), 0, ())
        for device in sorted(left):
            for stop in range(start + 1, count + 1):
                if device not in costs[stop - 1]:
                    break
                if nbytes[device][stop] - nbytes[device][start] > room[device]:
                    break
                # The cheap bound first: prefix sums, no transfers.
                if seconds[device][stop] - seconds[device][start] > found[0] + SLACK:
                    break
                here = stage(device, source, start, stop)
                slowest, off_host, rest = best(stop, device, left - {device})
                off_host += 0 if device == HOST else here.nbytes
                found = min(
                    found,
                    (max(here.seconds, slowest), off_host, (here, *rest)),
                    key=lambda one: one[:2],
                )
        return found

    slowest, _, stages = best(0, HOST, frozenset(devices))
    if slowest == float("inf"):
        raise PlacementError(
            "no stages hold the chain: "
            + "; ".join(f"{d} has {room[d]:,} bytes of {nbytes[d][-1]:,}" for d in devices)
        )
    return list(stages)


SLACK = 1e-12  # seconds; differences of prefix sums are not exact
