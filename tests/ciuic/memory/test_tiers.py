"""MemoryHierarchy: weights move as a whole or not at all, and every byte is accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ciuic.devices import DeviceManager, Weight
from ciuic.errors import DeviceError, DeviceNotFound, OutOfMemory, UsageError
from ciuic.memory import MemoryHierarchy, Tier
from ciuic.quantize import QuantizedMatrix
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from ..standin import StandIn

CAPACITY = 10_000


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn(capacity=CAPACITY) as device:
        yield device


def vector(length: int) -> CiuicTensor:
    return CiuicTensor.from_numpy(np.arange(length, dtype=np.float32))


def matrix(k: int, n: int) -> QuantizedMatrix:
    values = np.arange(k * n, dtype=np.int64).reshape(k, n) % 255 - 127
    return QuantizedMatrix(values.astype(np.int8), np.ones(n, np.float32))


class TwoForms:
    """Weights that are INT8 on FPGAs and float32 elsewhere."""

    def __init__(self) -> None:
        self.forms: dict[str, Weight] = {"FPGA": matrix(4, 4), "other": vector(16)}

    def on(self, kind: str) -> Sequence[tuple[str, Weight]]:
        return [("w", self.forms.get(kind, self.forms["other"]))]


def test_weights_come_in_many_forms(standin: StandIn) -> None:
    hierarchy = MemoryHierarchy()
    one, two = vector(8), matrix(3, 5)
    for weights in (one, [one], [("a", one)], {"a": one, "b": two}, iter([one, two]), [one, one]):
        hierarchy.move_to_device(weights, standin)
    assert hierarchy.is_in_device_memory([one, two], standin)
    assert standin.used_bytes == standin.weight_bytes(one) + standin.weight_bytes(two)


def test_form_is_that_of_the_device(standin: StandIn) -> None:
    hierarchy, weights = MemoryHierarchy(), TwoForms()
    hierarchy.move_to_device(weights, standin)
    assert standin.holds(weights.forms["other"])
    assert not standin.holds(weights.forms["FPGA"])
    assert hierarchy.is_in_device_memory(weights, standin)


def test_moved_weights_are_used_where_they_lie(standin: StandIn) -> None:
    weight = matrix(4, 3)
    MemoryHierarchy().move_to_device(weight, standin)
    used = standin.used_bytes
    x = np.eye(4, dtype=np.float32)
    product = Runtime().run("linear", [x, weight], device=standin)
    np.testing.assert_allclose(product.numpy(), weight.values, atol=1e-4)
    uploaded = standin.statistics.bytes_in
    assert uploaded == weight.nbytes + x.nbytes
    del product
    standin.synchronize()
    assert standin.used_bytes == used


def test_moving_again_moves_nothing(standin: StandIn) -> None:
    hierarchy, weight = MemoryHierarchy(), vector(100)
    hierarchy.move_to_device(weight, standin)
    hierarchy.move_to_device(weight, standin)
    assert standin.statistics.bytes_in == weight.nbytes


def test_changed_contents_are_not_in_device_memory(standin: StandIn) -> None:
    hierarchy, weight = MemoryHierarchy(), vector(10)
    hierarchy.move_to_device(weight, standin)
    weight.copy_from(CiuicTensor.from_numpy(np.ones(10, np.float32)))
    assert not hierarchy.is_in_device_memory(weight, standin)


def test_what_does_not_fit_is_not_moved_halfway(standin: StandIn) -> None:
    hierarchy = MemoryHierarchy()
    resident = vector(500)
    hierarchy.move_to_device(resident, standin)
    weights = [vector(1000), vector(1001)]
    with pytest.raises(
        OutOfMemory, match=r"^standin: 8,004 bytes wanted, 8,000 of 10,000 "
    ) as error:
        hierarchy.move_to_device(weights, standin)
    assert (error.value.wanted, error.value.available, error.value.capacity) == (8004, 8000, 10000)
    assert not any(standin.holds(weight) for weight in weights)
    assert standin.used_bytes == resident.nbytes
    fitting = [weights[0], vector(1000)]  # to the last byte
    hierarchy.move_to_device(fitting, standin)
    assert standin.used_bytes == CAPACITY


def test_device_that_fails_keeps_nothing() -> None:
    weights = [vector(10), matrix(2, 2), vector(20)]
    with StandIn(broken=["upload"]) as device:
        with pytest.raises(DeviceError, match=r"^upload is broken$"):
            MemoryHierarchy().move_to_device(weights, device)
        assert not any(device.holds(weight) for weight in weights)
        device.synchronize()
        assert device.used_bytes == 0


def test_evicted_weights_give_their_memory_back(standin: StandIn) -> None:
    hierarchy, weights = MemoryHierarchy(), [vector(100), matrix(5, 5)]
    hierarchy.move_to_device(weights, standin)
    hierarchy.evict(weights, standin)
    standin.synchronize()
    assert standin.used_bytes == 0
    assert not hierarchy.is_in_device_memory(weights, standin)


def test_weights_that_nobody_has_any_more_leave_the_device(standin: StandIn) -> None:
    weight = vector(100)
    MemoryHierarchy().move_to_device(weight, standin)
    del weight
    standin.synchronize()
    assert standin.used_bytes == 0


def test_cap_of_a_kind_holds() -> None:
    with DeviceManager() as manager:
        hierarchy = MemoryHierarchy(manager, caps={"FPGA": 4096})
        rows = [row for row in hierarchy.usage() if row.device == "fpga:emulated"]
        on_chip, usage = rows
        assert (on_chip.tier, on_chip.used_bytes) == (Tier.ON_CHIP, on_chip.capacity_bytes)
        assert usage.capacity_bytes == 4096
        assert usage.tier is Tier.DEVICE
        with pytest.raises(OutOfMemory, match=r"^fpga:emulated: 8,000 bytes wanted"):
            hierarchy.move_to_device(vector(2000), "FPGA")
        small = vector(100)
        hierarchy.move_to_device(small, "FPGA")
        assert hierarchy.is_in_device_memory(small)
        assert hierarchy.is_in_device_memory(small, "fpga:emulated")


def test_weights_that_a_runtime_has_brought_are_found() -> None:
    weight = vector(64)
    with DeviceManager() as manager:
        hierarchy = MemoryHierarchy()
        runtime = Runtime(manager)
        assert not hierarchy.is_in_device_memory(weight)
        runtime.place(weight, "fpga:emulated")
        assert hierarchy.is_in_device_memory(weight)


def test_the_host_is_no_device_memory() -> None:
    hierarchy, weight = MemoryHierarchy(), vector(64)
    hierarchy.move_to_device(weight, "cpu")
    assert not hierarchy.is_in_device_memory(weight)
    assert hierarchy.is_in_device_memory(weight, "CPU")
    (host,) = [row for row in hierarchy.usage() if row.tier is Tier.HOST]
    assert host.device == "cpu"
    assert host.used_bytes >= weight.nbytes


@pytest.mark.parametrize("cap", [0, -1])
def test_cap_that_is_none_is_refused(cap: int) -> None:
    with pytest.raises(UsageError, match=r"^cap of cpu must be a positive number of bytes, not"):
        MemoryHierarchy(caps={"cpu": cap})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (3, "weights must be weights, not int"),
        ([np.zeros(3)], "weight must be a CiuicTensor or quantized matrix, not ndarray"),
        ("attn", "weight must be a CiuicTensor or quantized matrix, not str"),
    ],
)
def test_other_objects_are_refused(standin: StandIn, weights: object, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        MemoryHierarchy().move_to_device(weights, standin)  # type: ignore[arg-type]


def test_absent_devices_are_told() -> None:
    hierarchy = MemoryHierarchy()
    with pytest.raises(DeviceNotFound, match=r"^no device 'TPU': there is no TPU here$"):
        hierarchy.move_to_device(vector(1), "TPU")
    with pytest.raises(DeviceNotFound, match=r"^no device 'npu': the name must begin with cpu, "):
        hierarchy.move_to_device(vector(1), "npu")
    with pytest.raises(DeviceNotFound, match="npu"):
        MemoryHierarchy(caps={"npu": 1})


def test_weights_that_do_not_fit_stream(standin: StandIn) -> None:
    hierarchy, runtime = MemoryHierarchy(), Runtime()
    weights = [matrix(40, 40) for _ in range(10)]  # 17,600 bytes for 10,000
    x = np.ones((2, 40), np.float32)
    expected = [runtime.run("linear", [x, weight]).numpy() for weight in weights]
    with hierarchy.streamed_to_device(weights, standin) as found:
        assert found.used_bytes <= CAPACITY
        assert 2 <= found.slots
        assert len(found.pinned) + len(found.streamed) == 10
        for _ in range(3):
            for weight, want in zip(weights, expected, strict=True):
                got = runtime.run("linear", [x, weight], device=standin).numpy()
                np.testing.assert_array_equal(got, want)
    assert [standin.holds(weight) for weight in weights].count(True) == len(found.pinned)
    hierarchy.evict(weights, standin)
    standin.synchronize()
    with pytest.raises(OutOfMemory), hierarchy.streamed_to_device(matrix(200, 200), standin):
        pass
    with hierarchy.streamed_to_device(weights[:3], standin) as found:
        assert not found.streamed
        assert hierarchy.is_in_device_memory(weights[:3], standin)
