"""Chat templates: messages to token ids.

A template is a program that comes with a model file, so it runs in jinja2's sandbox. What people
write cannot become a special token: such spellings inside messages are broken up with a guard
character before the template runs and put together again after the special tokens of the template
itself have been found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ciuic.errors import UsageError

from .tokenizer import Tokenizer

Message = Mapping[str, str]
"""One turn: ``role`` ("system", "user", "assistant") and ``content``."""

NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode keeps them for such uses


class Rendered(NamedTuple):
    """The text of a conversation; ``guard`` breaks up what looks special inside messages."""

    text: str
    guard: str


class ChatTemplate:
    """The chat template of one model.

    Parameters
    ----------
    source
        The template, in jinja2.
    tokenizer
        Whose special tokens the template writes.

    Raises
    ------
    ValueError
        If the source is no template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"the chat template cannot be parsed: {error}") from error
        self._tokenizer = tokenizer
        spellings = sorted(tokenizer.special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, spellings)) or r"(?!)")

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, up to where the assistant's answer begins.

        Raises
        ------
        UsageError
            If the template refuses the messages.
        """
        return self.tokenize(self.render(messages))

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Return the text of a conversation, up to where the assistant's answer begins.

        Raises
        ------
        UsageError
            If the template refuses the messages.
        """
        guard = _unused_character("".join(message["content"] for message in messages))
        guarded = [{**m, "content": self._break_up(m["content"], guard)} for m in messages]
        return Rendered(self._render(guarded), guard)

    def tokenize(self, rendered: Rendered, start: int = 0) -> list[int]:
        """Return the ids of a conversation's text from character ``start`` on."""
        text = rendered.text[start:]
        ids: list[int] = []
        at = 0
        for found in self._special.finditer(text):
            ids += self._tokenizer.encode(text[at : found.start()].replace(rendered.guard, ""))
            ids.append(self._tokenizer.special[found.group()])
            at = found.end()
        return ids + self._tokenizer.encode(text[at:].replace(rendered.guard, ""))

    def _break_up(self, content: str, guard: str) -> str:
        return self._special.sub(
            lambda found: found.group()[0] + guard + found.group()[1:], content
        )

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=True)
        except (TemplateError, TypeError, ArithmeticError, LookupError) as error:
            raise UsageError(f"the model's chat template refused the messages: {error}") from error


def _unused_character(text: str) -> str:
    for character in NONCHARACTERS:
        if character not in text:
            return character
    raise UsageError("a message must not hold every noncharacter from U+FDD0 to U+FDEF")


def _raise(reason: str) -> NoReturn:
    raise TemplateError(reason)
