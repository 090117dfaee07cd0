"""Stop strings are found however a text is cut, and no more is held back than may begin one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from ciuic.errors import UsageError
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.models.stop import StopStrings

from .conftest import Write


@pytest.fixture
def model(small_model: Write) -> Iterator[Model]:
    with load_model(small_model(40)) as model:
        yield model


def before_first(text: str, strings: list[str]) -> str | None:
    """Return the text before the stop string that is complete first, looking at each prefix."""
    for end in range(len(text) + 1):
        starts = [end - len(string) for string in strings if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)]
    return None


def held(text: str, strings: list[str]) -> int:
    beginnings = [string[:size] for string in strings for size in range(1, len(string))]
    return max((len(start) for start in beginnings if text.endswith(start)), default=0)


def test_text_ends_before_the_first_stop_string_however_it_is_cut() -> None:
    stopped = 0
    for seed in range(2000):
        rng = random.Random(seed)
        text = "".join(rng.choices("ab", k=rng.randint(0, 30)))
        strings = [
            "".join(rng.choices("ab", k=rng.randint(1, 7))) for _ in range(rng.randint(0, 3))
        ]
        stop, shown, at = StopStrings(strings), "", 0
        while at < len(text) and not stop.found:
            size = rng.randint(1, 5)
            shown += stop.add(text[at : at + size])
            at = min(at + size, len(text))
            if not stop.found:
                assert shown == text[: at - held(text[:at], strings)], f"seed {seed}"
        expected = before_first(text, strings)
        assert stop.found == (expected is not None), f"seed {seed}"
        assert shown + stop.finish() == (text if expected is None else expected), f"seed {seed}"
        stopped += stop.found
    assert 500 < stopped < 1900  # both ways to end were met


@pytest.mark.parametrize("seed", range(5))
def test_generation_ends_before_a_stop_string_across_tokens(model: Model, seed: int) -> None:
    rng = random.Random(seed)
    free = model.generate([5, 6, 7], 24)
    text = "".join(free)
    start = rng.randint(1, len(text) - 6)
    string = text[start : start + 5]  # tokens of this model are a character or two
    generation = model.generate([5, 6, 7], 24, stop=[string, "never"])
    pieces = list(generation)
    assert generation.text == "".join(pieces) == text[: text.index(string)], f"seed {seed}"
    assert generation.stop_reason == "stop"
    assert generation.ids == free.ids[: len(generation.ids)]
    assert string in model.tokenizer.decode(generation.ids)
    assert string not in model.tokenizer.decode(generation.ids[:-1])


def test_what_was_held_back_comes_when_no_more_does(model: Model) -> None:
    text = "".join(model.generate([5, 6, 7], 8))
    generation = model.generate([5, 6, 7], 8, stop=text[-2:] + "\0")
    assert "".join(generation) == generation.text == text
    assert generation.stop_reason == "max_tokens"


def test_empty_stop_string_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match=r"^a stop string must have at least one character$"):
        model.generate([5], 1, stop=["a", ""])
