"""Programs run by a build, of a bitstream or of a simulation; none is left behind."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ciuic.errors import DeviceError

JOBS = 2  # compilers at a time
LOG_LINES = 30  # of a failed program's output


class BuildFailed(DeviceError):
    """A program of a build ended with an error; the message holds the end of its output."""

    def __init__(
        self, command: Sequence[str], code: int, output: str, *, name: str | None = None
    ) -> None:
        self.command = list(command)
        self.code = code
        tail = "\n".join(output.splitlines()[-LOG_LINES:])
        super().__init__(f"{name or Path(command[0]).name} ended with exit code {code}:\n{tail}")


def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    name: str | None = None,
    log: str | None = None,
    limit_seconds: float | None = None,
) -> str:
    """Run a program in a folder and return its output, standard error included.

    ``name`` is what an error calls it; the first word of the command if None. The output goes to
    the file ``log`` of the folder as it comes, for whoever wants to see how far a long step is.

    Raises
    ------
    BuildFailed
        If it ends with an error.
    DeviceError
        If it does not end within ``limit_seconds``; it is killed.
    """
    file = (folder / log).open("wb+") if log else tempfile.TemporaryFile()
    with file as output:
        try:
            code = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit_seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as late:
            far = f"; {folder / log} says how far it came" if log else ""
            program = name or Path(command[0]).name
            raise DeviceError(f"{program} did not end within {limit_seconds:g} s{far}") from late
        output.seek(0)
        said = output.read().decode(errors="replace")
    if code:
        raise BuildFailed(command, code, said, name=name)
    return said


def run_all(commands: Sequence[Sequence[str]], *, folder: Path) -> None:
    """Run independent programs, `JOBS` at a time; on an error or Ctrl-C end the others."""
    waiting = list(commands)
    running: list[tuple[Sequence[str], subprocess.Popen[str]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < JOBS:
                command = waiting.pop(0)
                running.append((command, _start(command, folder)))
            command, process = running[0]
            output, _ = process.communicate()
            del running[0]
            if process.returncode:
                raise BuildFailed(command, process.returncode, output)
    finally:
        for _, process in running:
            process.kill()
            process.communicate()


def _start(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
