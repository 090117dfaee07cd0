"""Generation: prefill, then one token at a time, as a stream of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ciuic.errors import UsageError

from .continuation import Continuation
from .kv_cache import KvCache
from .progress import Cancelled, Report, silent
from .recovery import persist
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
    cache
        Holds tokens read before, of which the longest common prefix with the prompt is used; a new
        one by default.
    report
        Told how much of the prompt has been read.

    Attributes
    ----------
    cache
        Holds the prompt and the text as far as they have been read.

    Raises
    ------
    UsageError
        If the cache is of another model.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampling: SamplingOptions,
        *,
        stop: str | Sequence[str] = (),
        cache: KvCache | None = None,
        report: Report = silent,
    ) -> None:
        super().__init__(model, prompt_ids, max_tokens, sampling, stop)
        self.cache = model.new_cache() if cache is None else cache
        if self.cache.fingerprint != model.fingerprint:
            raise UsageError("the cache must be of the model that is to write")
        self._model = model
        self._report = report
        self._cancelled = False
        self._pieces = self._write()

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def cached_tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.cache.length

    @property
    def cache_nbytes(self) -> int:
        """Bytes that the cache takes, in whole blocks."""
        return self.cache.nbytes

    def cancel(self) -> None:
        """End the text before its next token; may be called from anywhere, a signal handler too."""
        self._cancelled = True

    def _write(self) -> Iterator[str]:
        model, cache = self._model, self.cache
        self.start()
        self.reused_tokens = cache.keep_prefix(self.prompt_ids)
        try:
            unread = self.prompt_ids[self.reused_tokens :]
            logits = persist(
                model, lambda: model.prefill(unread, cache, self._read), self._read_again
            )
            while not self._cancelled:
                if piece := self.take(logits):
                    yield piece
                if self.stop_reason is not None:
                    return
                if not self._cancelled:
                    logits = persist(
                        model, lambda: model.decode(self.ids[-1], cache), self._read_again
                    )
        except Cancelled:
            pass
        if piece := self.finish("cancelled"):
            yield piece

    def _read_again(self) -> npt.NDArray[np.float32]:
        """Return the logits after all tokens so far, whose cache went with a device."""
        self.cache.clear()
        return self._model.prefill(self.prompt_ids + self.ids, self.cache, self._read)

    def _read(self, what: str, done: int, total: int) -> None:
        self._report(what, done, total)
        if self._cancelled:
            raise Cancelled
