"""The tokenizer against recorded ids of transformers, and its own rules on a small vocabulary."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from ciuic.errors import ModelFormatError, UsageError
from ciuic.models.gguf_file import GgufFile
from ciuic.models.pre_tokenizers import PRE_TOKENIZERS
from ciuic.models.tokenizer import (
    StreamDecoder,
    Tokenizer,
    byte_characters,
    byte_level_bpe,
    gguf_tokenizer,
)

from .conftest import MERGES, SPECIAL, Write, vocabulary

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "smollm2_tokens.json").read_text()
)


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    with GgufFile(smollm2_path) as file:
        return gguf_tokenizer(file)


@pytest.fixture
def small() -> Tokenizer:
    tokens = vocabulary()
    bpe = byte_level_bpe(tokens, MERGES, pre="smollm", special=[0, 1])
    return Tokenizer(tokens, bpe, special=[0, 1], end_ids=[0], bos_id=None)


@pytest.mark.model
@pytest.mark.parametrize("row", RECORDED, ids=range(len(RECORDED)))
def test_ids_equal_those_of_transformers(smollm2: Tokenizer, row: dict[str, Any]) -> None:
    assert smollm2.encode(row["text"]) == row["ids"]


@pytest.mark.model
@pytest.mark.parametrize("row", RECORDED, ids=range(len(RECORDED)))
def test_decode_gives_the_text_back(smollm2: Tokenizer, row: dict[str, Any]) -> None:
    assert smollm2.decode(row["ids"]) == row["text"]


@pytest.mark.model
def test_characters_without_tokens_are_warned_of(
    smollm2: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert smollm2.decode(smollm2.encode("\x04fine")) == "fine"
    assert "left out" in caplog.text


def test_merges_apply_in_their_order(small: Tokenizer) -> None:
    tokens = vocabulary()
    ids = small.encode("the a then")
    assert [tokens[id_] for id_ in ids] == ["the", "Ġa", "Ġthe", "n"]


def test_digits_are_words_of_their_own(small: Tokenizer) -> None:
    tokens = vocabulary()
    assert [tokens[id_] for id_ in small.encode("12 3")] == ["1", "2", "Ġ", "3"]


@pytest.mark.parametrize("special", SPECIAL)
def test_text_never_becomes_a_special_token(small: Tokenizer, special: str) -> None:
    ids = small.encode(f"a{special}")
    assert set(ids).isdisjoint(small.special.values())
    assert small.decode(ids) == f"a{special}"


def test_merges_may_not_make_a_special_token() -> None:
    tokens = [*byte_characters(), "th"]
    with pytest.raises(ValueError, match=r"^merge must be of two tokens and give a third"):
        byte_level_bpe(tokens, ["t h"], pre="gpt-2", special=[256])


def test_special_tokens_have_no_text(small: Tokenizer) -> None:
    assert small.decode([1, *small.encode("the"), 0]) == "the"


def test_any_text_comes_back(small: Tokenizer) -> None:
    seed = 5
    rng = random.Random(seed)
    for _ in range(200):
        text = "".join(
            chr(rng.choice((rng.randrange(0x80), rng.randrange(0xD800)))) for _ in "x" * 9
        )
        assert small.decode(small.encode(text)) == text, f"seed {seed}"


def test_stream_gives_whole_characters_only(small: Tokenizer) -> None:
    text = "é🙂日 the"
    decoder = StreamDecoder(small)
    pieces = [decoder.add(id_) for id_ in small.encode(text)]
    assert "".join(pieces) == text
    assert pieces[:6] == ["", "é", "", "", "", "🙂"]
    assert decoder.finish() == ""


def test_stream_ends_inside_a_character_with_a_replacement(small: Tokenizer) -> None:
    decoder = StreamDecoder(small)
    assert [decoder.add(id_) for id_ in small.encode("🙂")[:3]] == ["", "", ""]
    assert decoder.finish() == "\ufffd"


def test_lone_surrogates_are_refused(small: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"^a prompt must be valid Unicode text"):
        small.encode("a\ud800")


def test_byte_characters_are_a_bijection_of_printable_characters() -> None:
    characters = byte_characters()
    assert sorted(characters.values()) == list(range(256))
    assert all(character.isprintable() for character in characters)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer must be of model 'gpt2', not 'llama'"),
        (
            {"tokenizer.ggml.pre": "other"},
            "pre-tokenizer must be one of gpt-2, smollm, llama-bpe, qwen2, ",
        ),
        ({"tokenizer.ggml.merges": ["t h", "q zz"]}, "merge must be of two tokens"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "token_type must have a type per token"),
        ({"tokenizer.ggml.eos_token_id": 10_000}, "token ids must be below 263, not 10000"),
    ],
)
def test_bad_tables_are_refused(small_model: Write, keys: dict[str, Any], reason: str) -> None:
    with (
        GgufFile(small_model(keys=keys)) as file,
        pytest.raises(ModelFormatError, match=reason),
    ):
        gguf_tokenizer(file)


TEXT = "I'M don't 12345 a+b\n\n  x ひらテ日 .foo(bar)  "


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["I", "'", "M", " don", "'t", " 12345", " a", "+", "b", "\n\n ", " x"]),
        ("smollm", ["I", "'", "M", " don", "'t", " ", *"12345", " a", "+", "b", "\n\n ", " x"]),
        ("llama-bpe", ["I", "'M", " don", "'t", " ", "123", "45", " a", "+b", "\n\n", " ", " x"]),
        ("qwen2", ["I", "'M", " don", "'t", " ", *"12345", " a", "+b", "\n\n", " ", " x"]),
        ("deepseek-v3", ["I", "'M", " don", "'t", " ", "123", "45", " a", "+b", "\n\n", " ", " x"]),
    ],
)
def test_text_splits_as_the_vocabulary_was_made(pre: str, words: list[str]) -> None:
    """The words by hand from the patterns; DeepSeek-V3 alone sets Japanese and Chinese apart."""
    byte_of = byte_characters()
    found = [
        bytes(byte_of[character] for character in word).decode()
        for word, _ in PRE_TOKENIZERS[pre]().pre_tokenize_str(TEXT)
    ]
    assert found[: len(words)] == words
    asian = [" ", "ひらテ日"] if pre == "deepseek-v3" else [" ひらテ日"]
    assert found[len(words) : len(words) + len(asian)] == asian
    if pre not in ("gpt-2", "smollm"):
        assert found[len(words) + len(asian) :] == [" .", "foo", "(bar", ")", "  "]
    assert "".join(found) == TEXT


def test_text_splits_as_deepseek_llm_was_made() -> None:
    """Letters with case and signs take a space before them; Georgian letters are not among them."""
    byte_of = byte_characters()
    found = [
        bytes(byte_of[character] for character in word).decode()
        for word, _ in PRE_TOKENIZERS["deepseek-llm"]().pre_tokenize_str(TEXT + "é აბ")
    ]
    start = ["I", "'", "M", " don", "'", "t", " ", "12345", " a", "+", "b", "\n", "\n", " ", " x"]
    assert found == [*start, " ", "ひらテ日", " .", "foo", "(", "bar", ")", " ", " é", " ", "აბ"]


def test_distilled_qwen_splits_as_qwen() -> None:
    split = PRE_TOKENIZERS["deepseek-r1-qwen"]().pre_tokenize_str(TEXT)
    assert split == PRE_TOKENIZERS["qwen2"]().pre_tokenize_str(TEXT)


@pytest.mark.parametrize(("pre", "whole"), [("llama-bpe", True), ("qwen2", False)])
def test_llama_takes_a_word_that_is_a_token(pre: str, whole: bool) -> None:
    """Even where the merges lead elsewhere: here "the" is "t" + "he", and "th" comes first."""
    tokens = [*byte_characters(), "th", "he", "the"]
    bpe = byte_level_bpe(tokens, ["t h", "h e", "t he"], pre=pre, special=[])
    assert bpe.encode("the", add_special_tokens=False).tokens == (["the"] if whole else ["th", "e"])
