"""Stop strings: text at which a model is to stop, found across tokens."""

from __future__ import annotations

from collections.abc import Sequence

from ciuic.errors import UsageError


class StopStrings:
    """Passes a text on, piece by piece, up to the first of some stop strings.

    What may be the beginning of a stop string is held back until more text decides. Where stop
    strings overlap, the one that is complete first counts, so that the result does not depend on
    how the text is cut into pieces.

    Parameters
    ----------
    strings
        The stop strings; one alone may be given as it is.

    Attributes
    ----------
    found
        Whether one of them has come.

    Raises
    ------
    UsageError
        If one of them is empty.
    """

    def __init__(self, strings: str | Sequence[str] = ()) -> None:
        self._strings = [strings] if isinstance(strings, str) else list(strings)
        if not all(self._strings):
            raise UsageError("a stop string must have at least one character")
        self._held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """Return the text that can be shown after one more piece."""
        text = self._held + piece
        ends = [
            (start + len(string), start)
            for string in self._strings
            if (start := text.find(string)) >= 0
        ]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        hold = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def finish(self) -> str:
        """Return what was held back, since no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Return how many of the last characters of a text begin a stop string."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
