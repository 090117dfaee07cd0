"""Placement: specifications as users write them, and chains against brute force."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest

from ciuic.errors import PlacementError, UsageError
from ciuic.scheduler import Placement, chain_with_room, cheapest_chain, parse_placement

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


def chain_seconds(
    path: list[str], costs: list[dict[str, float]], transfer: Callable[[str, str, int], float]
) -> float:
    """Return what a chain takes, from the host and back."""
    places = ["cpu", *path, "cpu"]
    moves = sum(transfer(a, b, i) for i, (a, b) in enumerate(itertools.pairwise(places)))
    return moves + sum(here[device] for here, device in zip(costs, path, strict=True))


def random_chain(
    rng: np.random.Generator,
) -> tuple[list[dict[str, float]], Callable[[str, str, int], float]]:
    """Return costs of up to six layers on some of four devices, and of transfers."""
    devices = ["cpu", "a", "b", "c"]
    costs = []
    for _ in range(rng.integers(1, 7)):
        here = rng.choice(devices, rng.integers(1, 5), replace=False)
        costs.append({str(device): float(rng.exponential()) for device in here})
    link = {
        key: float(rng.exponential() * rng.choice([0.1, 1]))
        for key in itertools.product(devices, devices, range(8))
    }

    def transfer(source: str, target: str, index: int) -> float:
        return 0.0 if source == target else link[source, target, index]

    return costs, transfer


@pytest.mark.parametrize("seed", range(100))
def test_chain_is_the_optimum(seed: int) -> None:
    costs, transfer = random_chain(np.random.default_rng(seed))
    paths = [list(path) for path in itertools.product(*costs)]
    best = min(chain_seconds(path, costs, transfer) for path in paths)
    chosen = cheapest_chain(costs, transfer)
    assert chain_seconds(chosen, costs, transfer) == pytest.approx(best), seed


def test_layer_without_a_device_is_told() -> None:
    with pytest.raises(PlacementError, match=r"^layer 1 of the chain has no device that can run"):
        cheapest_chain([{"cpu": 1.0}, {}], lambda *_: 0.0)


@pytest.mark.parametrize("seed", range(100))
def test_chain_with_room_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, transfer = random_chain(rng)
    for here in costs:
        here.setdefault("cpu", 5.0)
    sizes = [{device: int(rng.integers(1, 10)) for device in here} for here in costs]
    room = {"cpu": 100, **{device: int(rng.integers(0, 25)) for device in "abc"}}
    chosen, full = chain_with_room(costs, transfer, sizes, room)
    for device, available in room.items():
        used = sum(size[device] for size, on in zip(sizes, chosen, strict=True) if on == device)
        assert used <= available, seed
    host = chain_seconds(["cpu"] * len(costs), costs, transfer)
    assert chain_seconds(chosen, costs, transfer) <= host + 1e-9, seed
    assert all(device not in without for device, without in zip(chosen, full, strict=True)), seed
    if not any(full):
        assert chosen == cheapest_chain(costs, transfer), seed


def test_last_layers_give_way() -> None:
    costs = [{"cpu": 3.0, "gpu": 1.0}] * 4
    chosen, full = chain_with_room(
        costs, lambda *_: 0.0, [{"cpu": 10, "gpu": 10}] * 4, {"cpu": 100, "gpu": 25}
    )
    assert chosen == ["gpu", "gpu", "cpu", "cpu"]
    assert full == [frozenset(), frozenset(), {"gpu"}, {"gpu"}]


def test_layers_that_were_put_somewhere_stay() -> None:
    costs = [{"cpu": 3.0, "gpu": 1.0}, {"gpu": 0.0}, {"cpu": 3.0, "gpu": 1.0}]
    chosen, _ = chain_with_room(
        costs, lambda *_: 0.0, [{"cpu": 10, "gpu": 10}] * 3, {"cpu": 100, "gpu": 10}
    )
    assert chosen == ["cpu", "gpu", "cpu"]


def test_layers_that_fit_nowhere_are_told() -> None:
    message = "gpu must hold 20 bytes of weights, 15 are available"
    with pytest.raises(PlacementError, match=f"^{re.escape(message)}$"):
        chain_with_room([{"gpu": 0.0}] * 2, lambda *_: 0.0, [{"gpu": 10}] * 2, {"gpu": 15})
