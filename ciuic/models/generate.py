"""Generation: prefill, then one token at a time, as a stream of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .continuation import Continuation
from .progress import Report, silent
from .sampling import SamplingOptions

if TYPE_CHECKING:
    from .model import Model


class Generation(Continuation, Iterator[str]):
    """One text in the making: iterate over it to make the model write.

    Every piece holds whole characters. Nothing is computed before the first piece is asked for.

    Parameters
    ----------
    model, prompt_ids, max_tokens, sampling, stop
        As of a `Continuation`.
    report
        Told how much of the prompt has been read.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampling: SamplingOptions,
        *,
        stop: str | Sequence[str] = (),
        report: Report = silent,
    ) -> None:
        super().__init__(model, prompt_ids, max_tokens, sampling, stop)
        self._model = model
        self._report = report
        self._pieces = self._write()

    def __next__(self) -> str:
        return next(self._pieces)

    def _write(self) -> Iterator[str]:
        model = self._model
        self.start()
        cache = model.new_cache()
        logits = model.prefill(self.prompt_ids, cache, self._report)
        while True:
            if piece := self.take(logits):
                yield piece
            if self.stop_reason is not None:
                return
            logits = model.decode(self.ids[-1], cache)
