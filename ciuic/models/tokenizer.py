"""Text to token ids and back, from the tokenizer in a GGUF file or in a tokenizer.json.

Covers byte-level BPE (``tokenizer.ggml.model = gpt2``). Special tokens such as ``<|im_end|>`` are
never recognised in text: `encode` writes them as ordinary characters, so that a prompt cannot
end its own turn. `ciuic.models.chat` places them by their ids.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Collection, Sequence
from typing import cast

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models

from ciuic.errors import ModelFormatError, UsageError

from .gguf_file import GgufFile, Strings
from .pre_tokenizers import IGNORE_MERGES, PRE_TOKENIZERS

logger = logging.getLogger(__name__)

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # values of tokenizer.ggml.token_type
SURROGATE_TEXT = "a prompt must be valid Unicode text, not one with lone surrogates"


def byte_characters() -> dict[str, int]:
    """Return the character that byte-level BPE writes for each byte: character -> byte.

    Printable bytes stand for themselves; the others are the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + index): byte for index, byte in enumerate(others)},
    }


class Tokenizer:
    """The tokenizer of one model.

    Parameters
    ----------
    tokens
        Text of every token, by id, in byte-level characters.
    bpe
        Splits text into them; it must not know the special ones, so that no text can spell one.
    special
        Ids of tokens that steer the model and are no text.
    shown
        Those of them that people are to see, as they are spelt, such as ``<think>``.
    end_ids
        Ids at which generation stops.
    bos_id
        Id that begins every prompt, or None.

    Raises
    ------
    ValueError
        If the tables do not fit together.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        bpe: FastTokenizer,
        *,
        special: Sequence[int],
        end_ids: Sequence[int],
        bos_id: int | None,
        shown: Collection[int] = (),
    ) -> None:
        if len(set(tokens)) != len(tokens):
            raise ValueError("tokens must be distinct")
        self.special = {tokens[id_]: id_ for id_ in special}
        self.end_ids = frozenset(end_ids)
        self.bos_id = bos_id
        self._bpe = bpe
        self._bytes = _bytes_of_tokens(tokens, set(special), shown)
        self._lossy = set(byte_characters()) - set(tokens)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. Bytes that the vocabulary has no token for are left out.

        Raises
        ------
        UsageError
            If the text holds lone surrogates, which have no UTF-8 form.
        """
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(SURROGATE_TEXT) from error
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        if self._lossy and sum(len(self._bytes[id_]) for id_ in ids) < len(raw):
            logger.warning("the vocabulary has no tokens for some characters; they are left out")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out; broken UTF-8 becomes U+FFFD."""
        decoder = StreamDecoder(self)
        return "".join(map(decoder.add, ids)) + decoder.finish()

    def token_bytes(self, id_: int) -> bytes:
        """Return the bytes that a token stands for.

        None for a special token, and for one beyond the vocabulary: a model's output can have more
        columns than its tokenizer has tokens.
        """
        return self._bytes[id_] if id_ < len(self._bytes) else b""


class StreamDecoder:
    """Ids to text as they come: a character is given out when all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, id_: int) -> str:
        """Return the characters that are complete after one more token."""
        return self._utf8.decode(self._tokenizer.token_bytes(id_))

    def finish(self) -> str:
        """Return U+FFFD if the text ended inside a character, otherwise nothing."""
        return self._utf8.decode(b"", final=True)


def _bytes_of_tokens(
    tokens: Sequence[str], special: set[int], shown: Collection[int]
) -> list[bytes]:
    byte_of = byte_characters()
    found = []
    for id_, token in enumerate(tokens):
        if id_ in special:
            found.append(token.encode() if id_ in shown else b"")
        elif set(token) <= byte_of.keys():
            found.append(bytes(byte_of[character] for character in token))
        else:
            raise ValueError(f"token {id_} must be written in byte-level characters, not {token!r}")
    return found


def byte_level_bpe(
    tokens: Sequence[str], merges: Sequence[str], *, pre: str, special: Sequence[int]
) -> FastTokenizer:
    """Return what splits text into tokens.

    Parameters
    ----------
    tokens
        Text of every token, by id, in byte-level characters.
    merges
        Pairs in order of their rank, ``"left right"``.
    pre
        A name in `PRE_TOKENIZERS`.
    special
        Ids of tokens that steer the model; they stay out.

    Raises
    ------
    ValueError
        If the tables do not fit together.
    """
    if pre not in PRE_TOKENIZERS:
        raise ValueError(f"pre-tokenizer must be one of {', '.join(PRE_TOKENIZERS)}, not {pre!r}")
    steering = {tokens[id_] for id_ in special}
    words = {token: id_ for id_, token in enumerate(tokens) if token not in steering}
    pairs = [cast("tuple[str, str]", tuple(merge.split(" "))) for merge in merges]
    for pair in pairs:
        known = len(pair) == 2 and all(word in words for word in (*pair, "".join(pair)))
        if not known:
            raise ValueError(f"merge must be of two tokens and give a third, not {pair!r}")
    bpe = FastTokenizer(models.BPE(vocab=words, merges=pairs, ignore_merges=pre in IGNORE_MERGES))
    bpe.pre_tokenizer = PRE_TOKENIZERS[pre]()
    return bpe


def gguf_tokenizer(file: GgufFile) -> Tokenizer:
    """Return the tokenizer of a GGUF file.

    Raises
    ------
    ModelFormatError
        If there is none, or it is of a kind that is not supported.
    """
    metadata = file.metadata
    model = metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model != "gpt2":
        raise ModelFormatError(file.path, f"tokenizer must be of model 'gpt2', not {model!r}")
    tokens = _strings(file, "tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type", np.ones(len(tokens), np.int32))
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise ModelFormatError(file.path, "tokenizer.ggml.token_type must have a type per token")
    eos = metadata.get("tokenizer.ggml.eos_token_id")
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    for id_ in (eos, bos):
        if id_ is not None and not (type(id_) is int and 0 <= id_ < len(tokens)):
            raise ModelFormatError(file.path, f"token ids must be below {len(tokens)}, not {id_!r}")
    shown = np.flatnonzero(types == USER_DEFINED).tolist()
    special = np.flatnonzero(np.isin(types, (CONTROL, USER_DEFINED, UNUSED))).tolist()
    merges = _strings(file, "tokenizer.ggml.merges")
    pre = str(metadata.get("tokenizer.ggml.pre", "gpt-2"))
    try:
        return Tokenizer(
            tokens,
            byte_level_bpe(tokens, merges, pre=pre, special=special),
            special=special,
            shown=shown,
            end_ids=[] if eos is None else [cast("int", eos)],
            bos_id=cast("int", bos) if metadata.get("tokenizer.ggml.add_bos_token") else None,
        )
    except ValueError as error:
        raise ModelFormatError(file.path, str(error)) from error


def _strings(file: GgufFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, Strings):
        raise ModelFormatError(file.path, f"key {key} must be a list of strings")
    return list(value)
