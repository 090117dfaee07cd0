"""What ``ciuic run`` shows while a model writes: a text as it comes, several one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from ciuic.models.batch import BatchGeneration
from ciuic.models.continuation import Continuation
from ciuic.models.generate import Generation

from . import output

ENDINGS = {
    "end": "the model ended its text",
    "stop": "ended at --stop",
    "max_tokens": "ended at --max-tokens",
    "context": "ended because the context is full",
}

Work = Generation | BatchGeneration


def texts_of(work: Work) -> list[Continuation]:
    """Return what is written after each prompt."""
    return work.texts if isinstance(work, BatchGeneration) else [work]


def write(start: Callable[..., Work], prompts: Sequence[str], *, quiet: bool) -> Work:
    """Let the model write, and show the texts as they come."""
    with output.progress() as report:  # until the first piece: text and bars do not mix
        work = start(report=report)
        pieces: Iterator[tuple[int, str]] = (
            work if isinstance(work, BatchGeneration) else ((0, piece) for piece in work)
        )
        first = next(pieces, (0, ""))
    if quiet:
        for _ in pieces:
            pass
        return work
    printer = _Printer(prompts, texts_of(work))
    for index, piece in chain([first], pieces):
        printer.add(index, piece)
    printer.finish()
    return work


class _Printer:
    """Prints texts in the order of their prompts: the first live, the next when it is done."""

    def __init__(self, prompts: Sequence[str], texts: Sequence[Continuation]) -> None:
        self._prompts = prompts
        self._texts = texts
        self._waiting = [""] * len(texts)
        self._at = -1  # which text is being shown
        self._next()

    def add(self, index: int, piece: str) -> None:
        """Show a piece, or keep it until its text is due."""
        self._waiting[index] += piece
        self._flush()
        while self._texts[self._at].stop_reason is not None and self._at + 1 < len(self._texts):
            self._next()

    def finish(self) -> None:
        """Show what is left."""
        while self._at + 1 < len(self._texts):
            self._next()
        self._end()

    def _next(self) -> None:
        if self._at >= 0:
            self._end()
        self._at += 1
        if len(self._texts) > 1:
            print(f"[{self._at + 1}] {self._prompts[self._at]}")
        self._flush()

    def _end(self) -> None:
        print(f"\n({ENDINGS[self._texts[self._at].stop_reason or 'end']})\n")

    def _flush(self) -> None:
        print(self._waiting[self._at], end="", flush=True)
        self._waiting[self._at] = ""
