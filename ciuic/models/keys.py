"""Typed access to what a model says about itself: config.json, or the metadata of a GGUF file."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ciuic.errors import ModelFormatError

LARGEST_INTEGER = (1 << 31) - 1
LARGEST = 1e12  # of any number; far beyond sense, and its square is finite


class Keys:
    """Values by their key, checked as they are read; null is the same as absent.

    Parameters
    ----------
    path
        Where they come from, for errors.
    values
        The keys and values.
    prefix
        What every key that is asked for begins with.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of any type."""
        value = self._values.get(self._prefix + key)
        return default if value is None else value

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer that is not negative.

        Raises
        ------
        ModelFormatError
            If there is none and no default, as with every typed method.
        """
        value = self._needed(key, default)
        if type(value) is not int or not 0 <= value <= LARGEST_INTEGER:
            raise self.error(key, f"an integer from 0 to {LARGEST_INTEGER}", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        value = self._needed(key, default)
        if type(value) not in (int, float) or not abs(value) <= LARGEST:
            raise self.error(key, f"a number of at most {LARGEST:g}", value)
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false", value)
        return value

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        value = self.get(key, default)
        if type(value) is not str:
            raise self.error(key, "a string", value)
        return value

    def inside(self, key: str) -> Keys:
        """Return the keys of an object within; none if it is absent."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "an object", value)
        return Keys(self.path, value)

    def require(self, key: str, *wanted: object) -> None:
        """Refuse a value that would give wrong numbers without a word; it may be absent."""
        found = self._values.get(self._prefix + key, wanted[0])
        if isinstance(found, np.ndarray) or found not in wanted:
            raise self.error(key, " or ".join(map(repr, wanted)), found)

    def error(self, key: str, wanted: str, found: object) -> ModelFormatError:
        """Return the error that a value is not what is wanted."""
        shown = reprlib.repr(found)  # a list may be long
        return ModelFormatError(self.path, f"{self._prefix}{key} must be {wanted}, not {shown}")

    def _needed(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise ModelFormatError(self.path, f"key {self._prefix}{key} is missing")
        return value
