"""Talk with a model: it answers each line, and remembers what was said.

Only what is new is read at each turn. Ctrl-C stops an answer, and what was written of it stays in
the conversation; Ctrl-D leaves. Without a terminal each line of standard input is a turn, and the
answers alone go to standard output.

/exit leaves, /reset begins anew, /save FILE and /load FILE keep the conversation as JSON, /help
shows these.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING

from . import model_options, output
from .parser import suggestion

if TYPE_CHECKING:
    from ciuic.models.conversation import Conversation
    from ciuic.models.generate import Generation
    from ciuic.models.model import Model
    from ciuic.models.progress import Report

logger = logging.getLogger(__name__)

EXAMPLES = """
ciuic chat smollm2-135m-instruct
ciuic chat smollm2-135m-instruct --system "Answer in one sentence." --temperature 0.7 --seed 1
ciuic chat smollm2-135m-instruct --place "0-14=opencl,15-29=cpu" --verbose
printf 'What is an FPGA?\\nWho makes them?\\n' | ciuic chat smollm2-135m-instruct
"""

HELP = """/help         show this
/reset        forget the conversation and begin anew
/save FILE    write the conversation to a JSON file
/load FILE    go on with the conversation in a JSON file
/exit         leave, as Ctrl-D does
Ctrl-C stops an answer; what was written of it stays in the conversation.
A line that begins with a space is never a command."""
COMMANDS = ("/help", "/reset", "/save", "/load", "/exit")
FULL = "/reset begins anew, /save FILE keeps the conversation"
NOTES = {
    "cancelled": "stopped",
    "max_tokens": "ended at --max-tokens",
    "context": f"the model's context is full: {FULL}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic chat``."""
    model_options.add_model(parser)
    model_options.add_cap(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    model_options.add_writing(parser, max_tokens=512)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the input ends; return 2 if a line of a script could not be used."""
    from ciuic.models.conversation import Conversation

    sampling = model_options.sampling_options(arguments)
    with model_options.open_model(arguments) as model, ExitStack() as stack:
        conversation = Conversation(model, arguments.system)
        with output.progress() as report:
            chosen, _ = model_options.choose(model, arguments)
            model_options.place(model, chosen, report)
            stack.enter_context(model_options.loaded(model, arguments, report))

        def ask(text: str, report: Report) -> Generation:
            return conversation.ask(
                text,
                arguments.max_tokens,
                sampling=sampling,
                stop=arguments.stop,
                report=report,
            )

        return _Talk(conversation, ask, interactive=sys.stdin.isatty()).run(model)


class _Talk:
    """Reads lines, and shows what becomes of them."""

    def __init__(
        self,
        conversation: Conversation,
        ask: Callable[[str, Report], Generation],
        *,
        interactive: bool,
    ) -> None:
        self._conversation = conversation
        self._ask = ask
        self._interactive = interactive
        self._answer: Generation | None = None  # what is being written

    def run(self, model: Model) -> int:
        """Take lines until there are no more; return the exit status."""
        from ciuic.errors import CiuicError, ContextFull

        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # the tokenizer refuses what is no text
        if self._interactive:
            with contextlib.suppress(ImportError):
                importlib.import_module("readline")  # lines can be edited and come back
            _note(f"{model.config.name}; /help shows the commands, Ctrl-D leaves")
        status = 0
        with self._interrupts():
            while True:
                try:
                    line = self._line()
                    if line is None or line.split() == ["/exit"]:
                        return 0 if self._interactive else status
                    self._take(line)
                except KeyboardInterrupt:
                    _note("Ctrl-D or /exit leaves")
                except CiuicError as error:
                    print(f"ciuic: error: {error}", file=sys.stderr)
                    if isinstance(error, ContextFull):
                        _note(FULL)
                    status = error.exit_code

    def _line(self) -> str | None:
        if not self._interactive:
            return sys.stdin.readline() or None
        try:
            return input("> ")
        except EOFError:
            print()
            return None

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            self._command(line)
        elif line.strip():
            self._show(line.strip())

    def _command(self, line: str) -> None:
        from ciuic.errors import UsageError

        name, _, argument = line.strip().partition(" ")
        argument = argument.strip()
        if name not in COMMANDS:
            raise UsageError(
                f"command must be one of {', '.join(COMMANDS)}, not {name!r}"
                f"{suggestion(name, COMMANDS)}"
            )
        if (name in ("/save", "/load")) != bool(argument):
            wanted = "a file" if name in ("/save", "/load") else "nothing"
            raise UsageError(f"{name} takes {wanted}, not {argument!r}")
        if name == "/help":
            print(HELP)
        elif name == "/reset":
            self._conversation.reset()
        elif name == "/save":
            self._conversation.save(argument)
        elif name == "/load":
            self._conversation.load(argument)

    def _show(self, text: str) -> None:
        """Show the answer to a message as it comes."""
        try:
            with output.progress() as report:  # until the first piece: text and bars do not mix
                self._answer = answer = self._ask(text, report)
                first = next(answer, "")
            for piece in chain([first], answer):
                print(piece, end="", flush=True)
        finally:
            self._answer = None
        print(flush=True)
        if answer.speed is not None:
            logger.info(
                "%d tokens read, %d were in the cache, %d written, %.1f a second",
                answer.speed.prompt_tokens - answer.reused_tokens,
                answer.reused_tokens,
                answer.speed.tokens,
                answer.speed.decode_tokens_per_second or 0.0,
            )
        if answer.stop_reason in NOTES:
            _note(NOTES[answer.stop_reason])

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Let Ctrl-C end the answer that is being written, or the line that is being typed."""

        def stop(*_: object) -> None:
            if self._answer is None:
                raise KeyboardInterrupt
            self._answer.cancel()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _note(text: str) -> None:
    print(f"({text})", file=sys.stderr, flush=True)
