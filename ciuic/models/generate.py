"""Generation: prefill, then one token at a time, as a stream of text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ciuic.errors import UsageError

from .progress import Report, silent
from .sampling import Sampler, SamplingOptions
from .tokenizer import StreamDecoder

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a text was written.

    Attributes
    ----------
    prompt_tokens, tokens
        Tokens read and written.
    time_to_first_token
        Seconds from the start to the first token's choice.
    prefill_tokens_per_second
        Prompt tokens over that time.
    decode_tokens_per_second
        Tokens after the first over the time that they took; None if there are none.
    """

    prompt_tokens: int
    tokens: int
    time_to_first_token: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None


class Generation(Iterator[str]):
    """One text in the making: iterate over it to make the model write.

    Every piece holds whole characters. Nothing is computed before the first piece is asked for.

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
    report
        Told how much of the prompt has been read.

    Attributes
    ----------
    prompt_ids
        Ids of the prompt.
    ids
        Ids written so far, a last one that ends the text included.
    text
        Text written so far.
    stop_reason
        Why there is no more: "end" (the model ended its text), "max_tokens", or "context" (it is
        full); None while there may be more.

    Raises
    ------
    UsageError
        If the prompt or ``max_tokens`` cannot be used.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampling: SamplingOptions,
        report: Report = silent,
    ) -> None:
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {max_tokens!r}")
        self.prompt_ids = model.checked_ids(prompt_ids)
        self.ids: list[int] = []
        self.text = ""
        self.stop_reason: str | None = None
        self._model = model
        self._max_tokens = max_tokens
        self._sampler = Sampler(sampling)
        self._report = report
        self._times: list[float] = []  # perf_counter at the start and at each token
        self._pieces = self._write()

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def speed(self) -> Speed | None:
        """How fast it went so far; None before the first token."""
        if not self.ids:
            return None
        start, first, last = self._times[0], self._times[1], self._times[-1]
        more = len(self.ids) - 1
        return Speed(
            prompt_tokens=len(self.prompt_ids),
            tokens=len(self.ids),
            time_to_first_token=first - start,
            prefill_tokens_per_second=len(self.prompt_ids) / (first - start),
            decode_tokens_per_second=more / (last - first) if more else None,
        )

    def _write(self) -> Iterator[str]:
        decoder = StreamDecoder(self._model.tokenizer)
        for id_ in self._tokens():
            if piece := decoder.add(id_):
                self.text += piece
                yield piece
        if piece := decoder.finish():
            self.text += piece
            yield piece

    def _tokens(self) -> Iterator[int]:
        """Choose tokens until a reason to stop."""
        model = self._model
        self._times.append(time.perf_counter())
        cache = model.new_cache()
        logits = model.prefill(self.prompt_ids, cache, self._report)
        while True:
            id_ = self._sampler.choose(logits, self.prompt_ids + self.ids)
            self._times.append(time.perf_counter())
            self.ids.append(id_)
            yield id_
            self.stop_reason = self._reason_to_stop(id_, cache.length)
            if self.stop_reason is not None:
                return
            logits = model.decode(id_, cache)

    def _reason_to_stop(self, id_: int, cached: int) -> str | None:
        if id_ in self._model.tokenizer.end_ids:
            return "end"
        if len(self.ids) == self._max_tokens:
            return "max_tokens"
        return "context" if cached == self._model.config.max_seq_len else None
