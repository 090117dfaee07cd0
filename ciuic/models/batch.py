"""Generation of several texts at once: a step reads each weight once for all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
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


class BatchGeneration(Iterator[tuple[int, str]]):
    """Several texts in the making: iterate over pairs of which text, and its next piece.

    All prompts are read first; then every step adds a token to each text that has not ended. Each
    has its own cache and its own random numbers, and linear layers treat each row by itself: the
    tokens are those that the model writes after each prompt alone, bit for bit with INT8 layers.
    (With float32 layers BLAS may round a row otherwise when there are more of them.)

    Parameters
    ----------
    model, max_tokens, sampling, stop
        As of a `Continuation`.
    prompts
        Ids of each prompt.
    report
        Told how much of the prompts has been read.

    Attributes
    ----------
    texts
        What is written after each prompt.
    cached_tokens, cache_nbytes
        Tokens that the caches held when they held most, and the bytes that they took, in whole
        blocks. A text's cache goes when the text ends.

    Raises
    ------
    UsageError
        If there is no prompt, or one cannot be used.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        sampling: SamplingOptions,
        *,
        stop: str | Sequence[str] = (),
        report: Report = silent,
    ) -> None:
        if not prompts:
            raise UsageError("a batch must have at least one prompt")
        self.texts = [Continuation(model, ids, max_tokens, sampling, stop) for ids in prompts]
        self.cached_tokens = 0
        self.cache_nbytes = 0
        self._model = model
        self._report = report
        self._cancelled = False
        self._pieces = self._write()

    def __next__(self) -> tuple[int, str]:
        return next(self._pieces)

    def cancel(self) -> None:
        """End all texts before their next tokens; a signal handler may call it too."""
        self._cancelled = True

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of all texts after the first of each, over the time that they took; or None."""
        speeds = [text.speed for text in self.texts]
        more = sum(speed.tokens - 1 for speed in speeds if speed is not None)
        seconds = max((text.decode_seconds for text in self.texts), default=0.0)
        return more / seconds if more else None

    def _write(self) -> Iterator[tuple[int, str]]:
        model, texts = self._model, self.texts
        live: dict[int, KvCache] = {index: model.new_cache() for index in range(len(texts))}
        for text in texts:
            text.start()
        try:
            logits = persist(model, lambda: self._read_all(live), lambda: self._read_all(live))
            while live and not self._cancelled:
                self._count(live.values())
                for index, row in zip(list(live), logits, strict=True):
                    if piece := texts[index].take(row):
                        yield index, piece
                    if texts[index].stop_reason is not None:
                        del live[index]
                if live and not self._cancelled:
                    last = [texts[index].ids[-1] for index in live]
                    logits = persist(
                        model,
                        partial(model.decode_batch, last, list(live.values())),
                        lambda: self._read_all(live),
                    )
        except Cancelled:
            pass
        for index in live:
            if piece := texts[index].finish("cancelled"):
                yield index, piece

    def _read_all(self, live: Mapping[int, KvCache]) -> npt.NDArray[np.float32]:
        """Return the logits after all tokens so far of the texts that have not ended."""
        for cache in live.values():
            cache.clear()
        tokens = [self.texts[index].prompt_ids + self.texts[index].ids for index in live]
        return self._model.prefill_batch(tokens, list(live.values()), self._read)

    def _count(self, caches: Collection[KvCache]) -> None:
        self.cached_tokens = max(self.cached_tokens, sum(cache.length for cache in caches))
        self.cache_nbytes = max(self.cache_nbytes, sum(cache.nbytes for cache in caches))

    def _read(self, what: str, done: int, total: int) -> None:
        self._report(what, done, total)
        if self._cancelled:
            raise Cancelled
