"""Models on devices with an arena: it changes no bit, is what the plan says, and is reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.devices import DeviceManager
from ciuic.devices.arena import ArenaDevice
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.opencl import OpenclDevice, list_devices
from ciuic.devices.opencl_runtime import working_devices
from ciuic.devices.places import Places, grown
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.models.plan import plan_model
from ciuic.models.planner import PlanRequest
from ciuic.runtime import Runtime

from ..standin import StandIn
from .conftest import Write

OPENCL = pytest.param(
    "opencl:0",
    marks=[
        pytest.mark.opencl,
        pytest.mark.skipif(not list_devices(), reason="pip install 'ciuic[opencl-cpu]'"),
    ],
)


@pytest.fixture(params=["cpu", OPENCL])
def device(request: pytest.FixtureRequest) -> Iterator[ArenaDevice]:
    """A device of each kind that has an arena, which nobody else has open."""
    uri = request.param
    with CpuDevice() if uri == "cpu" else OpenclDevice(uri, working_devices()[0]) as device:
        assert isinstance(device, ArenaDevice)
        yield device


def logits(model: Any, device: Any, elsewhere: Any = None) -> list[npt.NDArray[np.float32]]:
    """Return the logits of a prompt, of tokens after it, and of a batch."""
    layers = range(len(model.layers))
    model.place({i: elsewhere if elsewhere and i % 2 else device for i in layers}, device)
    cache = model.new_cache()
    found = [model.prefill(list(range(3, 40)), cache)]
    found += [model.decode(token, cache) for token in (5, 6, 7, 8)]
    prompts: Sequence[Sequence[int]] = [[3, 4, 5], [9, 8], [7] * 12]
    caches = [model.new_cache() for _ in prompts]
    found.append(model.prefill_batch(prompts, caches))
    found += [model.decode_batch([4, 5, 6], caches) for _ in range(3)]
    return found


def runtime_with(device: ArenaDevice) -> Runtime:
    """Return a runtime that finds a device by its URI: the host, if it is the CPU."""
    manager = DeviceManager()
    manager._devices[device.uri] = device
    return Runtime(manager)


class NoReuse(Places):
    """Places of which none is ever given back."""

    def give(self, offset: int) -> None:
        """Do nothing."""


@pytest.mark.parametrize("quantize", ["int8", "int4", None])
@pytest.mark.parametrize("name", [DEFAULT_MODEL, None])
@pytest.mark.parametrize("alone", [True, False])
def test_bytes_used_again_change_no_bit(
    device: ArenaDevice, small_model: Write, name: str | None, quantize: Any, alone: bool
) -> None:
    how: dict[str, Any] = {"quantize": quantize, "runtime": Runtime()}
    with StandIn() as between, load_model(name or small_model(), **how) as model:
        got = logits(model, device, None if alone else between)
        used = device.statistics.counters["arena_bytes"]
        device._places = NoReuse(device._places.alignment)
        want = logits(model, device, None if alone else between)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    assert device.statistics.counters["arena_bytes"] > 3 * used


@pytest.mark.parametrize("prompt", [1, 2, 70])
def test_the_plan_knows_the_arena(device: ArenaDevice, small_model: Write, prompt: int) -> None:
    """Of a model without experts, where nothing depends on contents; tokens are programs or not."""
    path, context = small_model(3), prompt + 20
    request = PlanRequest(
        model=path, place=f"*={device.uri}", prompt_tokens=prompt, context=context, format="int8"
    )
    with DeviceManager() as manager:
        plan = plan_model(request, manager)
    (planned,) = [row for row in plan.memory if row.device == device.uri]
    with load_model(path, quantize="int8", runtime=runtime_with(device)) as model:
        model.place(dict.fromkeys(range(len(model.layers)), device), device)
        cache = model.new_cache()
        model.prefill(list(range(2, 2 + prompt)), cache)
        for _ in range(context - prompt):
            model.decode(3, cache)
        used = device.statistics.counters["arena_bytes"]
        assert grown(int(used)) == planned.nbytes["activations"] == device.kept_bytes
        assert device.kept_bytes + sum(
            planned.nbytes[kind] for kind in ("weights", "kv_cache")
        ) == pytest.approx(device.used_bytes, rel=0.01)


@pytest.mark.parametrize("prompt", [[7], [7] * 64, list(range(3, 120))])
@pytest.mark.parametrize("quantize", ["int8", None])
def test_the_plan_bounds_the_arena(device: ArenaDevice, prompt: list[int], quantize: Any) -> None:
    """Of a model with experts, be they chosen evenly or all tokens' the same.

    The device has no byte more than the plan says.
    """
    request = PlanRequest(
        model=DEFAULT_MODEL,
        place=f"*={device.uri}",
        prompt_tokens=len(prompt),
        context=len(prompt) + 4,
        format=quantize or "float32",
    )
    with DeviceManager() as manager:
        plan = plan_model(request, manager)
    (planned,) = [row for row in plan.memory if row.device == device.uri]
    with load_model(DEFAULT_MODEL, quantize=quantize, runtime=runtime_with(device)) as model:
        model.place(dict.fromkeys(range(len(model.layers)), device), device)
        parts = ("weights", "kv_cache", "activations")
        device.capacity_bytes = sum(planned.nbytes[part] for part in parts)
        cache = model.new_cache()
        model.prefill(prompt, cache)
        for token in (3, 4, 5, 6):
            model.decode(token, cache)
        assert device.peak_bytes <= device.capacity_bytes
    used = device.statistics.counters["arena_bytes"]
    assert used <= planned.nbytes["activations"] <= 1.5 * grown(int(used))
