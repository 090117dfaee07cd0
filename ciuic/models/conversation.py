"""A conversation with a model: turns in its chat template, and a cache that follows them.

A turn reads only what is new. The model's own answers stay in the cache as the tokens that it
wrote, wherever the template puts them into the next prompt unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ciuic.errors import ContextFull, ModelFormatError, UsageError

from .chat import Message, Rendered
from .generate import Generation
from .huggingface import read_json
from .model import Model
from .progress import Report, silent
from .sampling import SamplingOptions

ROLES = ("system", "user", "assistant")


class Conversation:
    """Turns between a user and a model.

    Parameters
    ----------
    model
        Who answers.
    system
        What the model is told before the first turn; nothing by default.

    Raises
    ------
    UsageError
        If the model has no chat template.
    """

    def __init__(self, model: Model, system: str | None = None) -> None:
        if model.template is None:
            raise UsageError(
                f"{model.config.name} has no chat template, so it cannot hold a conversation; "
                "`ciuic run --raw` lets it continue a text"
            )
        self._model = model
        self._template = model.template
        self._system = system
        self._messages: list[Message] = []  # all turns but the present answer
        self._answer: Generation | None = None
        self._rendered = Rendered("", "")  # of these messages
        self._known: tuple[Rendered, list[int]] = (Rendered("", ""), [])  # a text and its tokens
        self.reset()

    @property
    def messages(self) -> list[Message]:
        """The turns so far, the present answer as far as it is written."""
        if self._answer is None:
            return list(self._messages)
        return [*self._messages, {"role": "assistant", "content": self._answer.text}]

    def reset(self) -> None:
        """Begin anew; what the model was told before the first turn stays."""
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._begin(system)

    def ask(
        self,
        text: str,
        max_tokens: int = 512,
        *,
        sampling: SamplingOptions | None = None,
        stop: str | Sequence[str] = (),
        report: Report = silent,
    ) -> Generation:
        """Return an iterator over the pieces of the model's answer to a message.

        However far it is written, cancelled or not, it is part of the conversation from now on.

        Parameters
        ----------
        text
            The user's message.
        max_tokens, sampling, stop, report
            As of `Model.generate`.

        Raises
        ------
        ContextFull
            If the conversation no longer fits; it is as it was before.
        UsageError
            If the template refuses the message, or an argument cannot be used.
        """
        self._settle()
        messages = [*self._messages, {"role": "user", "content": text}]
        rendered = self._template.render(messages)
        ids = self._ids(rendered)
        context = self._model.config.max_seq_len
        if len(ids) > context:
            raise ContextFull(tokens=len(ids), context=context)
        answer = self._model.generate(
            ids, max_tokens, sampling=sampling, stop=stop, cache=self._cache, report=report
        )
        self._messages, self._rendered, self._answer = messages, rendered, answer
        return answer

    def save(self, path: str | Path) -> None:
        """Write the conversation to a JSON file, whole or not at all.

        Raises
        ------
        UsageError
            If the file cannot be written.
        """
        path = Path(path)
        content = {"model": self._model.config.name, "messages": self.messages}
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            draft.write_text(json.dumps(content, indent=2), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror})") from error
        finally:
            draft.unlink(missing_ok=True)

    def load(self, path: str | Path) -> None:
        """Go on with the conversation in a JSON file, which another model may have had.

        Raises
        ------
        ModelFormatError
            If the file is missing or holds no conversation; the present one is as it was before.
        UsageError
            If the template refuses the messages.
        """
        messages = _messages(Path(path), read_json(Path(path)))
        self._template.render(messages)
        self._begin(messages)

    def _begin(self, messages: Sequence[Message]) -> None:
        self._cache = self._model.new_cache()
        self._messages = list(messages)
        self._answer = None
        self._known = Rendered("", ""), []

    def _settle(self) -> None:
        """Make the last answer a turn, and remember the tokens up to its end."""
        answer = self._answer
        if answer is None:
            return
        self._messages = list(self.messages)
        self._answer = None
        written = answer.ids[:-1] if answer.stop_reason == "end" else answer.ids
        if self._model.tokenizer.decode(written) == answer.text:  # no stop string cut it
            text, guard = self._rendered
            self._known = Rendered(text + answer.text, guard), answer.prompt_ids + written

    def _ids(self, rendered: Rendered) -> list[int]:
        """Return the ids of the conversation: those known, as far as its text is the same."""
        (text, guard), ids = self._known
        if ids and guard == rendered.guard and rendered.text.startswith(text):
            return ids + self._template.tokenize(rendered, len(text))
        return self._template.tokenize(rendered)


def _messages(path: Path, content: dict[str, Any]) -> list[Message]:
    """Return the turns in a saved conversation."""
    found = content.get("messages")
    if not isinstance(found, list):
        raise ModelFormatError(path, "must hold a list of messages")
    for message in found:
        if not (
            isinstance(message, dict)
            and message.keys() == {"role", "content"}
            and message["role"] in ROLES
            and isinstance(message["content"], str)
        ):
            raise ModelFormatError(path, f"a message must have a role and a text, not {message!r}")
    if found and found[-1]["role"] == "user":
        raise ModelFormatError(path, "the last message must not be a question without an answer")
    return list(found)
