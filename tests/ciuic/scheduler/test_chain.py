"""place_chain: against trying everything, under caps, and what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from ciuic.errors import PlacementError
from ciuic.scheduler import Assignment, ChainProblem, chain, place_chain
from ciuic.scheduler.exhaustive import chain_optimum, random_chain

FAST: Mapping[str, float] = {"cpu": 0.003, "gpu": 0.001}


def link(seconds: float) -> Any:
    return lambda source, target, _index: 0.0 if source == target else seconds


def placed(seconds: Sequence[Mapping[str, float]], way: float = 0.0, **rest: Any) -> Assignment:
    return place_chain(ChainProblem(seconds=seconds, transfer=link(way), **rest))


@pytest.mark.parametrize("seed", range(150))
def test_small_chains_are_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_chain(rng, layers=int(rng.integers(1, 7)), devices=int(rng.integers(1, 5)))
    found = place_chain(problem)
    assert problem.fits(found.devices)
    assert all(on in here for on, here in zip(found.devices, problem.seconds, strict=True))
    assert problem.time(found.devices) == found.seconds
    assert found.seconds == pytest.approx(chain_optimum(problem)), seed
    assert found.exact


def unaided(problem: ChainProblem, patch: pytest.MonkeyPatch) -> Assignment | None:
    """Return what the search finds with prices, but with no chain to begin from; None if none."""
    prices = chain._prices
    patch.setattr(chain, "_prices", lambda *given: (*prices(*given)[:2], None))
    patch.setattr(chain, "_repaired", lambda *_: None)
    try:
        return place_chain(problem)
    except PlacementError:
        return None


@pytest.mark.parametrize("seed", range(60))
def test_search_alone_finds_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_chain(np.random.default_rng(seed), layers=6, devices=4)
    found = unaided(problem, monkeypatch)
    assert found is not None
    assert found.seconds == pytest.approx(chain_optimum(problem)), seed
    assert found.exact


@pytest.mark.parametrize("seed", range(60))
def test_narrow_search_knows_how_good_it_is(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "LABELS", 1)
    problem = random_chain(np.random.default_rng(seed), layers=6, devices=4)
    found, optimum = unaided(problem, monkeypatch), chain_optimum(problem)
    if found is not None:
        assert problem.fits(found.devices)
        assert found.bound <= optimum * (1 + 1e-9) <= found.seconds * (1 + 2e-9)


@pytest.mark.parametrize("seed", range(10))
def test_prices_prove_a_bound(seed: int) -> None:
    problem = random_chain(np.random.default_rng(seed), layers=40, devices=4)
    path, _ = chain._shortest(problem, {})
    _, bound, _ = chain._prices(problem, problem.time(path))
    best = place_chain(problem).seconds  # the optimum, or a little more
    assert 0.9 * best <= bound <= best * (1 + 1e-9), seed


@pytest.mark.parametrize("seed", range(10))
def test_narrow_search_is_never_worse_than_one_device(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LABELS", 1)
    problem = random_chain(np.random.default_rng(seed), layers=40, devices=3)
    whole = [[on] * 40 for on in problem.devices if all(on in here for here in problem.seconds)]
    best = min(problem.time(path) for path in whole if problem.fits(path))
    assert place_chain(problem).seconds <= best


@pytest.mark.parametrize("seed", range(8))
def test_model_sized_chains_keep_their_promises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_chain(rng, layers=61, devices=4, equal=seed % 2 == 0)
    found = place_chain(problem)
    assert problem.fits(found.devices)
    assert found.bound <= found.seconds <= problem.time(["cpu"] * 61)
    assert found.seconds <= 1.05 * found.bound


def test_idle_devices_are_allowed() -> None:
    assert placed([FAST] * 3, way=0.01).devices == ("cpu",) * 3
    assert placed([FAST] * 30, way=0.01).devices == ("gpu",) * 30


def test_first_layers_get_the_room() -> None:
    found = placed([FAST] * 4, nbytes=[{"cpu": 10, "gpu": 10}] * 4, room={"gpu": 25})
    assert found.devices == ("gpu", "gpu", "cpu", "cpu")
    assert found.exact
    figures = "least time of the chain: cpu 3.00 ms, gpu 1.00 ms"
    assert found.reasons == (figures,) * 2 + (f"{figures}, no room on gpu",) * 2


def test_layers_that_were_put_somewhere_stay() -> None:
    sizes = [{"cpu": 10, "gpu": 10}] * 3
    found = placed([FAST, {"gpu": 0.0}, FAST], nbytes=sizes, room={"cpu": 100, "gpu": 10})
    assert found.devices == ("cpu", "gpu", "cpu")
    assert found.reasons[1] == "the only device for it"


def test_reason_names_the_way() -> None:
    found = placed([FAST], way=0.0025)
    assert found.reasons == (
        "least time of the chain: cpu 3.00 ms, gpu 1.00 ms, the way to gpu would add 3.00 ms",
    )


def test_layer_without_a_device_is_told() -> None:
    with pytest.raises(PlacementError, match=r"^layer 1 of the chain has no device that can run"):
        placed([{"cpu": 1.0}, {}])


def test_empty_chain_takes_no_time() -> None:
    assert placed([], room={"cpu": 0}) == Assignment(devices=(), seconds=0, bound=0, reasons=())


@pytest.mark.parametrize(
    ("layers", "room", "message"),
    [
        ([{"gpu": 0.0}] * 2, {"gpu": 15}, "gpu must hold 20 bytes of weights, 15 are available"),
        (
            [FAST] * 3,
            {"gpu": 15, "cpu": 5},
            "no way was found to fit the weights, at least 30 bytes, into 5 on cpu, 15 on gpu",
        ),
    ],
)
def test_what_does_not_fit_is_told(layers: Any, room: Any, message: str) -> None:
    sizes = [dict.fromkeys(here, 10) for here in layers]
    with pytest.raises(PlacementError, match=f"^{re.escape(message)}$"):
        placed(layers, nbytes=sizes, room=room)
    assert math.isinf(
        chain_optimum(ChainProblem(seconds=layers, transfer=link(0.0), nbytes=sizes, room=room))
    )
