"""Generation: streaming, stopping, and what is refused before work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ciuic.errors import UsageError
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.models.sampling import SamplingOptions

from .conftest import Write


@pytest.fixture
def model(small_model: Write) -> Iterator[Model]:
    with load_model(small_model(40)) as model:
        yield model


def test_greedy_text_is_the_most_likely_token_each_time(model: Model) -> None:
    prompt = [5, 6, 7]
    generation = model.generate(prompt, 8)
    text = "".join(generation)
    ids = list(prompt)
    while len(ids) < len(prompt) + 8:
        ids.append(int(model.logits(ids)[-1].argmax()))
    assert generation.ids == ids[len(prompt) :]
    assert text == generation.text == model.tokenizer.decode(generation.ids)
    assert generation.stop_reason == "max_tokens"


def test_pieces_come_one_by_one(model: Model) -> None:
    generation = model.generate([5, 6, 7], 8)
    assert generation.speed is None
    first = next(generation)
    assert first == generation.text
    assert generation.stop_reason is None
    assert len(generation.ids) < 8


def test_text_ends_at_the_end_token(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([ord("h"), ord("i"), 0, ord("x")])
    vocabulary = {
        ord("h"): model.tokenizer.encode("h")[0],
        ord("i"): model.tokenizer.encode("i")[0],
    }
    monkeypatch.setattr(
        "ciuic.models.sampling.Sampler.choose",
        lambda *_: vocabulary.get(number := next(script), number),
    )
    generation = model.generate("say hi", 20)
    assert "".join(generation) == "hi"
    assert generation.ids[-1] == 0
    assert generation.stop_reason == "end"


def test_text_ends_when_the_context_is_full(model: Model) -> None:
    generation = model.generate([5] * 120, 100)
    "".join(generation)
    assert generation.stop_reason in ("context", "end")
    if generation.stop_reason == "context":
        assert 120 + len(generation.ids) == model.config.max_seq_len + 1


def test_speed_counts_tokens(model: Model) -> None:
    generation = model.generate([5, 6, 7], 4)
    "".join(generation)
    speed = generation.speed
    assert speed is not None
    assert (speed.prompt_tokens, speed.tokens) == (3, len(generation.ids))
    assert speed.time_to_first_token > 0
    assert speed.prefill_tokens_per_second == pytest.approx(3 / speed.time_to_first_token)


def test_seed_repeats_a_sampled_text(model: Model) -> None:
    def write(seed: int) -> list[int]:
        sampling = SamplingOptions(temperature=1.0, seed=seed)
        generation = model.generate([5, 6, 7], 10, sampling=sampling)
        "".join(generation)
        return generation.ids

    assert write(1) == write(1) != write(2)


def test_prompt_text_goes_into_the_chat_template(model: Model) -> None:
    assert model.generate("the", 1).prompt_ids == model.encode_chat(
        [{"role": "user", "content": "the"}]
    )
    assert model.generate("the", 1, raw=True).prompt_ids == model.tokenizer.encode("the")


def test_bos_begins_a_raw_prompt_if_the_file_says_so(small_model: Write) -> None:
    keys = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": True}
    with load_model(small_model(keys=keys)) as model:
        assert model.encode("the", raw=True) == [1, *model.tokenizer.encode("the")]


def test_model_without_template_takes_raw_prompts_only(small_model: Write) -> None:
    with (
        load_model(small_model(without="tokenizer.chat_template")) as model,
        pytest.raises(UsageError, match=r"^the model has no chat template; use the prompt raw$"),
    ):
        model.generate("the", 1)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [
        ([], 1, "a prompt must have at least one token"),
        ([5] * 129, 1, "a prompt must be at most 128 tokens, the context of small, not 129"),
        ([5, 263], 1, "token id must be from 0 to 262, not 263"),
        ([5, -1], 1, "token id must be from 0 to 262, not -1"),
        ([5], 0, "max_tokens must be at least 1, not 0"),
    ],
)
def test_what_cannot_work_is_refused_before_work(
    model: Model, prompt: list[int], max_tokens: int, message: str
) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        model.generate(prompt, max_tokens)


def test_placement_is_checked_and_kept(model: Model) -> None:
    model.place({1: "cpu"}, head="cpu")
    assert model.layers[1].device == "cpu"
    with pytest.raises(UsageError, match=r"^layer must be from 0 to 1, not 2$"):
        model.place({2: "cpu"})


def test_logits_of_numpy_ids(model: Model) -> None:
    assert model.logits(np.array([5, 6])).shape == (2, 263)
