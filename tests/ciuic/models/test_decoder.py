"""A token as one program of the CPU: the same bits as operator by operator, and when it is one."""

from __future__ import annotations

import numpy as np
import pytest

from ciuic.devices import DeviceManager, native
from ciuic.errors import UsageError
from ciuic.models import kv_cache
from ciuic.models.kv_cache import KvCache
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.runtime import Runtime

from ..standin import StandIn
from .conftest import LAYERS, Write

pytestmark = pytest.mark.skipif(native.load().library is None, reason=native.HOW_TO_GET)


def one_by_one(model: Model, token_id: int, cache: KvCache) -> np.ndarray:
    return model._logits_of(model._step([([token_id], cache)])).numpy()[0]


def tasks(model: Model) -> dict[str, int]:
    model.runtime.synchronize()
    ops = model.runtime.device("cpu").statistics.ops
    return {op: count.tasks for op, count in ops.items()}


@pytest.mark.parametrize("seed", range(3))
def test_programs_give_the_bits_of_operators(
    small_model: Write, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "BLOCK_SLOTS", 8)  # so that the cache grows on the way
    with load_model(small_model(seed), quantize="int8", runtime=Runtime()) as model:
        rng = np.random.default_rng(seed)
        prompt = rng.integers(0, model.config.vocab_size, 3 + seed).tolist()
        first, second = model.new_cache(), model.new_cache()
        for cache in (first, second):
            model.prefill(prompt, cache)
        before = tasks(model)
        for token_id in rng.integers(0, model.config.vocab_size, 12).tolist():
            got, want = model.decode(token_id, first), one_by_one(model, token_id, second)
            np.testing.assert_array_equal(got, want, f"seed {seed}")
            assert first.length == second.length
        after = tasks(model)
        assert after["decode"] - before.get("decode", 0) == 12
        assert after["attention"] - before["attention"] == 12 * LAYERS  # of the second cache


def test_a_program_follows_the_placement(small_model: Write) -> None:
    runtime = Runtime()
    with load_model(small_model(), quantize="int8", runtime=runtime) as model:
        cache, other = model.new_cache(), model.new_cache()
        for token_id in (3, 4):
            model.decode(token_id, cache), one_by_one(model, token_id, other)
        before = tasks(model)["decode"] - 2
        gpu = StandIn()
        model.place({1: gpu})
        np.testing.assert_array_equal(model.decode(5, cache), one_by_one(model, 5, other))
        assert gpu.statistics.ops["attention"].tasks == 2
        model.place({1: "cpu"})
        model.layers[0].as_fpga = True  # another softmax
        np.testing.assert_array_equal(model.decode(6, cache), one_by_one(model, 6, other))
        model.layers[0].as_fpga = False
        np.testing.assert_array_equal(model.decode(7, cache), one_by_one(model, 7, other))
        assert tasks(model)["decode"] - before == 3
        gpu.close()


@pytest.mark.parametrize(("name", "quantize"), [(None, None), (DEFAULT_MODEL, "int8")])
def test_what_cannot_be_a_program_runs_by_operators(
    small_model: Write, name: str | None, quantize: str | None
) -> None:
    with load_model(name or small_model(), quantize=quantize, runtime=Runtime()) as model:
        cache, other = model.new_cache(), model.new_cache()
        before = tasks(model).get("decode")
        for token_id in (3, 4, 5):
            got, want = model.decode(token_id, cache), one_by_one(model, token_id, other)
            np.testing.assert_array_equal(got, want)
        assert cache.length == 3
        assert tasks(model).get("decode") == before


def test_a_full_context_is_refused(small_model: Write) -> None:
    with load_model(small_model(), quantize="int8", runtime=Runtime(DeviceManager())) as model:
        cache = model.new_cache()
        model.prefill([1] * (model.config.max_seq_len - 1), cache)
        model.decode(1, cache)
        with pytest.raises(UsageError, match=r"must be at most 128 tokens, not 129$"):
            model.decode(1, cache)


def test_a_cache_stays_on_its_device(small_model: Write) -> None:
    """One append an array and token, and no copy of what is there, to or from the host."""
    runtime = Runtime()
    with StandIn() as device, load_model(small_model(), quantize="int8", runtime=runtime) as model:
        model.place({0: device})
        cache = model.new_cache()
        model.prefill([5, 6], cache)
        runtime.reset_usage()
        for token in (7, 8, 9):
            model.decode(token, cache)
        appended = {row.device: row.ops["kv_append"] for row in runtime.usage()}
        assert appended == {"standin": 3 * 2, "cpu": 3 * 2 * (LAYERS - 1)}


def test_results_of_a_program_share_an_arena(small_model: Write) -> None:
    with load_model(small_model(), quantize="int8", runtime=Runtime()) as model:
        cache = model.new_cache()
        model.decode(3, cache)
        (_, program), *_ = model._decoder._programs.values()
        assert program is not None
        results = [part.stop - part.start for _, part in program._arena.parts]
        assert len(results) > 10 * LAYERS
        assert max(results) <= program.arena_bytes < sum(results) / 3
        counters = model.runtime.device("cpu").statistics.counters
        assert counters["arena_bytes"] >= program.arena_bytes
