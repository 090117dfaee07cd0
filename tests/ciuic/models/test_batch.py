"""Several texts at once: each is the one that its prompt gives alone, and weights are read once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ciuic.errors import UsageError
from ciuic.models.attend import packs
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.models.sampling import SamplingOptions
from ciuic.runtime import Runtime

from . import small_deepseek
from .conftest import Write


@pytest.fixture(params=["llama", "deepseek"])
def model(request: pytest.FixtureRequest, small_model: Write, tmp_path: Path) -> Iterator[Model]:
    path = small_model(70) if request.param == "llama" else small_deepseek.write_folder(tmp_path)
    with load_model(path, quantize="int8", runtime=Runtime()) as model:
        yield model


def random_prompts(model: Model, rng: random.Random) -> list[list[int]]:
    tokens = range(2, model.config.vocab_size)
    return [rng.choices(tokens, k=rng.randint(1, 40)) for _ in range(rng.randint(1, 6))]


def test_packs_hold_every_token_once_in_order() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        lengths = [rng.randint(1, 20) for _ in range(rng.randint(1, 8))]
        most = rng.randint(1, 30)
        found = list(packs(lengths, most))
        sizes = [sum(stop - start for _, start, stop in pack) for pack in found]
        assert set(sizes[:-1]) <= {most}, f"seed {seed}"
        assert 0 < sizes[-1] <= most
        tokens = [(i, at) for pack in found for i, a, b in pack for at in range(a, b)]
        assert tokens == [(i, at) for i, length in enumerate(lengths) for at in range(length)]
        for pack in found:
            assert len({index for index, _, _ in pack}) == len(pack)


@pytest.mark.parametrize(
    ("device", "temperature"), [("cpu", 0.0), ("cpu", 1.0), ("fpga:emulated?config=tiny", 0.0)]
)
def test_every_text_is_that_of_its_prompt_alone(
    model: Model, device: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of any lengths, packed in any way; texts that end early leave the others alone."""
    model.place({1: device})
    # In INT8 the scales of keys depend on which tokens go through together.
    model.layers[1].attention = None if device == "cpu" else "q16"
    reasons = set()
    for seed in range(3 if device == "cpu" else 1):
        rng = random.Random(seed)
        prompts = [*random_prompts(model, rng), [5] * (model.config.max_seq_len - 3)]
        sampling = SamplingOptions(temperature=temperature, seed=seed)
        monkeypatch.setattr("ciuic.models.model.PREFILL_TOKENS", rng.choice([4, 16, 256]))
        stop = "".join(model.generate(prompts[0], 12, sampling=sampling))[3:5]
        batch = model.generate_batch(prompts, 12, sampling=sampling, stop=[stop])
        shown = [""] * len(prompts)
        for index, piece in batch:
            shown[index] += piece
        for prompt, text, seen in zip(prompts, batch.texts, shown, strict=True):
            alone = model.generate(prompt, 12, sampling=sampling, stop=[stop])
            assert "".join(alone) == text.text == seen, f"seed {seed}"
            assert alone.ids == text.ids, f"seed {seed}"
            assert alone.stop_reason == text.stop_reason
            reasons.add(text.stop_reason)
    assert device != "cpu" or {"stop", "context"} <= reasons


def test_logits_of_a_batch_are_those_alone_bit_for_bit(model: Model) -> None:
    for seed in range(5):
        prompts = random_prompts(model, random.Random(seed))
        caches = [model.new_cache() for _ in prompts]
        last = list(range(2, 2 + len(prompts)))
        together = [model.prefill_batch(prompts, caches), model.decode_batch(last, caches)]
        for index, prompt in enumerate(prompts):
            cache = model.new_cache()
            alone = [model.prefill(prompt, cache), model.decode(last[index], cache)]
            for rows, row in zip(together, alone, strict=True):
                assert np.array_equal(rows[index], row), f"seed {seed}"


def test_float32_differs_by_rounding_alone(tmp_path: Path) -> None:
    """BLAS adds in another order when there are more rows."""
    with load_model(small_deepseek.write_folder(tmp_path), quantize=None) as model:
        for seed in range(5):
            prompts = random_prompts(model, random.Random(seed))
            rows = model.prefill_batch(prompts, [model.new_cache() for _ in prompts])
            for row, prompt in zip(rows, prompts, strict=True):
                alone = model.prefill(prompt, model.new_cache())
                assert np.abs(row - alone).max() < 1e-5 * np.abs(alone).max(), f"seed {seed}"


def test_a_step_reads_each_weight_once(model: Model) -> None:
    """Linear layers of a step are as many for five texts as for two."""

    def linear(count: int) -> int:
        model.runtime.reset_usage()
        list(model.generate_batch([[5, 6, 7]] * count, 4, sampling=SamplingOptions(seed=1)))
        return model.runtime.usage()[0].ops["linear"]

    assert linear(5) == linear(2)  # the same tokens, so the same experts; one alone is a program


def test_trained_model_writes_several_texts() -> None:
    prompts = ["It is a truth", "And God said unto", "To be, or", "He"]
    with load_model(DEFAULT_MODEL, quantize="int8") as model:
        batch = model.generate_batch(prompts, 16)
        for _ in batch:
            pass
        for prompt, text in zip(prompts, batch.texts, strict=True):
            assert "".join(model.generate(prompt, 16)) == text.text
        assert batch.tokens_per_second is not None
        assert batch.tokens_per_second > 0


def test_batch_is_cancelled_in_prompts_and_in_texts(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ciuic.models.model.PREFILL_TOKENS", 4)
    batch = model.generate_batch([[5] * 8, [6]], 8, report=lambda *_: batch.cancel())
    assert list(batch) == []
    assert [text.stop_reason for text in batch.texts] == ["cancelled"] * 2
    assert batch.tokens_per_second is None
    batch = model.generate_batch([[5] * 8, [6]], 8)
    next(batch)
    batch.cancel()
    list(batch)
    assert {text.stop_reason for text in batch.texts} <= {"cancelled", "end"}
    assert max(len(text.ids) for text in batch.texts) < 8


def test_what_cannot_work_is_refused_before_work(model: Model) -> None:
    with pytest.raises(UsageError, match=r"^a batch must have at least one prompt$"):
        model.generate_batch([])
    with pytest.raises(UsageError, match=r"^a prompt must have at least one token$"):
        model.generate_batch([[5], []])
