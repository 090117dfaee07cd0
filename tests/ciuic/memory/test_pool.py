"""TensorPool: a tensor is handed out again only when nobody else can see it."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest

from ciuic.errors import ShapeError, UsageError
from ciuic.memory import TensorPool
from ciuic.runtime import default_runtime
from ciuic.tensor import CiuicTensor


def allocate(pool: TensorPool, *shape: int, dtype: str = "float32") -> CiuicTensor:
    """Do what the first users do."""
    if tensor := pool.get_tensor(shape, dtype):
        return tensor
    tensor = CiuicTensor(shape, dtype)
    pool.add_tensor(tensor)
    return tensor


def test_empty_pool_has_none() -> None:
    assert TensorPool().get_tensor((2, 3), "float32") is None


def test_tensor_in_use_is_not_handed_out() -> None:
    pool = TensorPool()
    first = allocate(pool, 2, 3)
    second = allocate(pool, 2, 3)
    assert first is not second
    assert len(pool) == 2
    assert pool.nbytes == 2 * 24


@pytest.mark.parametrize("holder", ["name", "list", "attribute", "closure", "frame", "weak"])
def test_whoever_holds_it_counts(holder: str) -> None:
    pool = TensorPool()
    pool.add_tensor(CiuicTensor((4,)))
    tensor = pool.get_tensor((4,))
    assert tensor is not None
    held: object
    if holder == "name":
        held = tensor
    elif holder == "list":
        held = [tensor]
    elif holder == "attribute":
        held = type("Holder", (), {"tensor": tensor})
    elif holder == "closure":
        held = (lambda kept: lambda: kept)(tensor)
    elif holder == "frame":
        held = (kept for kept in [tensor])
    else:
        import weakref

        held = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert (pool.get_tensor((4,)) is None) == (holder != "weak")
    del held
    gc.collect()
    assert pool.get_tensor((4,)) is not None


def test_shape_and_dtype_must_be_the_same() -> None:
    pool = TensorPool()
    pool.add_tensor(CiuicTensor((6,), "float32"))
    assert pool.get_tensor((2, 3), "float32") is None
    assert pool.get_tensor((6,), "int32") is None
    assert pool.get_tensor([6], np.float32) is not None


def test_what_others_still_see_is_not_overwritten() -> None:
    pool = TensorPool()
    tensor = allocate(pool, 3)
    tensor.copy_from(CiuicTensor.from_numpy(np.float32([1, 2, 3])))
    address = id(tensor)
    view = tensor.numpy()
    doubled = tensor + tensor  # recorded, not computed yet
    on_device = default_runtime().place(tensor)
    del tensor
    again = allocate(pool, 3)
    assert id(again) == address
    again.copy_from(CiuicTensor.from_numpy(np.float32([7, 8, 9])))
    assert view.tolist() == [1, 2, 3]
    assert doubled.numpy().tolist() == [2, 4, 6]
    assert on_device.numpy().tolist() == [1, 2, 3]
    assert again.numpy().tolist() == [7, 8, 9]


def test_memory_is_used_again_once_nobody_sees_it() -> None:
    pool = TensorPool()
    tensor = allocate(pool, 1000)
    source = CiuicTensor.from_numpy(np.arange(1000, dtype=np.float32))
    tensor.copy_from(source)
    address = tensor.numpy().__array_interface__["data"][0]
    del tensor
    again = allocate(pool, 1000)
    again.copy_from(source)
    assert again.numpy().__array_interface__["data"][0] == address


def test_adding_twice_keeps_one() -> None:
    pool = TensorPool()
    tensor = CiuicTensor((2,))
    pool.add_tensor(tensor)
    pool.add_tensor(tensor)
    assert len(pool) == 1


def test_clear_leaves_tensors_to_their_users() -> None:
    pool = TensorPool()
    tensor = allocate(pool, 2)
    pool.clear()
    assert len(pool) == pool.nbytes == 0
    assert tensor.numpy().tolist() == [0, 0]
    assert allocate(pool, 2) is not tensor


@pytest.mark.parametrize("seed", range(5))
def test_no_live_tensor_is_ever_shared(seed: int) -> None:
    rng = random.Random(seed)
    pool = TensorPool()
    live: dict[int, CiuicTensor] = {}
    most: dict[tuple[int, ...], int] = {}
    for step in range(400):
        if live and rng.random() < 0.5:
            del live[rng.choice(list(live))]
            continue
        shape = rng.choice([(2,), (3,), (2, 2)])
        tensor = allocate(pool, *shape)
        tensor.copy_from(CiuicTensor.from_numpy(np.full(shape, step, np.float32)))
        live[step] = tensor
        users = sum(other.shape == shape for other in live.values())
        most[shape] = max(most.get(shape, 0), users)
        for number, other in live.items():
            assert (other.numpy() == number).all(), (seed, step)
        del tensor, other
    assert len(pool) == sum(most.values()), seed


def test_other_objects_are_refused() -> None:
    pool = TensorPool()
    with pytest.raises(UsageError, match=r"^tensor must be a CiuicTensor, not ndarray$"):
        pool.add_tensor(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"^dtype must be one of .*, not 'float16'$"):
        pool.get_tensor((3,), "float16")
    with pytest.raises(ShapeError, match=r"^shape must be positive sizes, not 3$"):
        pool.get_tensor(3, "float32")  # type: ignore[arg-type]
