"""The tokenizer of a Hugging Face folder: tokenizer.json, and which of its tokens end a text."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from ciuic.errors import ModelFormatError

from .huggingface import HuggingFaceFolder, read_json
from .tokenizer import Tokenizer

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def huggingface_tokenizer(folder: HuggingFaceFolder, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of a model folder, which must be byte-level BPE.

    A begin-of-text token comes first in every prompt if the model's own post-processor puts one.

    Raises
    ------
    ModelFormatError
        If there is none, it is of another kind, or it has more than ``vocab_size`` tokens.
    """
    path = folder.path / TOKENIZER
    spec = read_json(path)
    model: Any = spec.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise ModelFormatError(path, "the tokenizer must be of type BPE")
    try:
        vocabulary: dict[str, int] = dict(model["vocab"])
        added = [dict(token) for token in spec.get("added_tokens", ())]
        # All added tokens steer a model, also those that the file does not call special, such as
        # DeepSeek's <｜User｜>; only whether people see them differs.
        steering = {token["content"]: token["id"] for token in added}
        shown = [token["id"] for token in added if not token["special"]]
        begins = steering.keys() & _placed_tokens(spec.get("post_processor"))
        every = {**vocabulary, **steering}
        if sorted(every.values()) != list(range(len(every))) or len(every) > vocab_size:
            raise ValueError(f"token ids must be distinct, without gaps and below {vocab_size}")
        model["vocab"] = {word: id_ for word, id_ in vocabulary.items() if word not in steering}
        spec["added_tokens"] = []
        spec["post_processor"] = None
        bpe = FastTokenizer.from_str(json.dumps(spec))
        tokens = sorted(every, key=every.__getitem__)
        return Tokenizer(
            tokens,
            bpe,
            special=sorted(steering.values()),
            shown=shown,
            end_ids=_end_ids(folder, len(tokens)),
            bos_id=steering[min(begins)] if len(begins) == 1 else None,
        )
    except ModelFormatError:
        raise
    except Exception as error:  # what the package raises for a file that it cannot read
        raise ModelFormatError(path, str(error)) from error


def chat_template(folder: HuggingFaceFolder) -> str | None:
    """Return the source of the folder's chat template, or None."""
    alone = folder.path / "chat_template.jinja"
    if alone.is_file():
        return alone.read_text(encoding="utf-8", errors="replace")
    settings = folder.path / SETTINGS
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    return template if isinstance(template, str) else None


def _placed_tokens(processor: Any) -> set[str]:
    """Return the special tokens that a post-processor, or those it is a row of, puts round text."""
    if not isinstance(processor, dict):
        return set()
    placed = set(processor.get("special_tokens") or ())
    return placed.union(*(_placed_tokens(inner) for inner in processor.get("processors") or ()))


def _end_ids(folder: HuggingFaceFolder, count: int) -> list[int]:
    generation = folder.path / "generation_config.json"
    found = read_json(generation).get("eos_token_id") if generation.is_file() else None
    found = folder.config.get("eos_token_id") if found is None else found
    ids = found if isinstance(found, list) else [] if found is None else [found]
    for id_ in ids:
        if type(id_) is not int or not 0 <= id_ < count:
            raise ModelFormatError(
                folder.path, f"eos_token_id must be from 0 to {count - 1}, not {id_!r}"
            )
    return ids
