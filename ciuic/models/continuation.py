"""What a model writes after one prompt, token by token, and why it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ciuic.errors import UsageError

from .sampling import Sampler, SamplingOptions
from .stop import StopStrings
from .tokenizer import StreamDecoder

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a text was written.

    Attributes
    ----------
    prompt_tokens, tokens
        Tokens of the prompt and tokens written.
    reused_tokens
        Tokens of the prompt that were in the cache and were not read again.
    time_to_first_token
        Seconds from the start to the first token's choice.
    prefill_tokens_per_second
        Prompt tokens that were read over that time.
    decode_tokens_per_second
        Tokens after the first over the time that they took; None if there are none.
    """

    prompt_tokens: int
    reused_tokens: int
    tokens: int
    time_to_first_token: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None


class Continuation:
    """The text after one prompt, as far as it is written.

    Parameters
    ----------
    model
        Who writes.
    prompt_ids
        What it continues.
    max_tokens
        Most tokens to write.
    sampling
        How to choose them.
    stop
        Texts at which to stop; they do not become part of the text.

    Attributes
    ----------
    prompt_ids
        Ids of the prompt.
    reused_tokens
        How many of them were in the cache already.
    ids
        Ids written so far, a last one that ends the text included.
    text
        Text written so far.
    stop_reason
        Why there is no more: "end" (the model ended its text), "stop" (a stop string),
        "max_tokens", "context" (it is full) or "cancelled"; None while there may be more.

    Raises
    ------
    UsageError
        If the prompt, ``max_tokens`` or a stop string cannot be used.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampling: SamplingOptions,
        stop: str | Sequence[str] = (),
    ) -> None:
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {max_tokens!r}")
        self.prompt_ids = model.checked_ids(prompt_ids)
        self.reused_tokens = 0
        self.ids: list[int] = []
        self.text = ""
        self.stop_reason: str | None = None
        self._max_tokens = max_tokens
        self._max_seq_len = model.config.max_seq_len
        self._end_ids = model.tokenizer.end_ids
        self._sampler = Sampler(sampling)
        self._decoder = StreamDecoder(model.tokenizer)
        self._stop = StopStrings(stop)
        self._times: list[float] = []  # perf_counter at the start and at each token

    @property
    def speed(self) -> Speed | None:
        """How fast it went so far; None before the first token."""
        if not self.ids:
            return None
        start, first = self._times[:2]
        more = len(self.ids) - 1
        return Speed(
            prompt_tokens=len(self.prompt_ids),
            reused_tokens=self.reused_tokens,
            tokens=len(self.ids),
            time_to_first_token=first - start,
            prefill_tokens_per_second=(len(self.prompt_ids) - self.reused_tokens) / (first - start),
            decode_tokens_per_second=more / self.decode_seconds if more else None,
        )

    @property
    def decode_seconds(self) -> float:
        """Seconds from the first token to the last."""
        return self._times[-1] - self._times[1] if self.ids else 0.0

    def start(self) -> None:
        """Begin to count the time."""
        self._times.append(time.perf_counter())

    def take(self, logits: npt.NDArray[np.float32]) -> str:
        """Choose the next token by the logits (vocab,) and return the text that is now complete."""
        id_ = self._sampler.choose(logits, self.prompt_ids + self.ids)
        self._times.append(time.perf_counter())
        self.ids.append(id_)
        piece = self._stop.add(self._decoder.add(id_))
        self.text += piece
        reason = self._reason_to_stop(id_)
        return piece if reason is None else piece + self.finish(reason)

    def finish(self, reason: str) -> str:
        """End the text and return what was held back of it."""
        rest = ""
        if not self._stop.found:
            rest = self._stop.add(self._decoder.finish()) + self._stop.finish()
        self.text += rest
        self.stop_reason = "stop" if self._stop.found else reason
        return rest

    def _reason_to_stop(self, id_: int) -> str | None:
        if self._stop.found:
            return "stop"
        if id_ in self._end_ids:
            return "end"
        if len(self.ids) == self._max_tokens:
            return "max_tokens"
        cached = len(self.prompt_ids) + len(self.ids) - 1  # the last token is not in the cache
        return "context" if cached == self._max_seq_len else None
