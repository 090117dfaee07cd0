"""Run a long command so that a person sees one line: what it does and for how long.

    python tools/quietly.py "installing packages" COMMAND ...

Only if the command fails, the end of its output is shown. The exit status is the command's.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TICK_SECONDS = 0.5
SHOWN_LINES = 40  # of what a failed command said
INTERRUPTED = 130


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1000))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _show(text: str) -> None:
    width = shutil.get_terminal_size().columns - 1
    print(f"\r\033[K{text[:width]}", end="", flush=True)


def _wait(process: subprocess.Popen[bytes], what: str, log: Path, started: float) -> int:
    terminal = sys.stdout.isatty()
    if not terminal:
        print(f"{what} ...", flush=True)
    while True:
        try:
            return process.wait(timeout=TICK_SECONDS)
        except subprocess.TimeoutExpired:
            if terminal:
                _show(f"{what}: {time.monotonic() - started:.0f} s  {_last_line(log)}")


def main(what: str, command: list[str]) -> int:
    """Run ``command`` and return its exit status."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ciuic-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            try:
                status = _wait(process, what, log, started)
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                status = INTERRUPTED
        if sys.stdout.isatty():
            _show("")
        if status == INTERRUPTED:
            print(f"{what}: interrupted", flush=True)
        elif status:
            print(*log.read_text(errors="replace").splitlines()[-SHOWN_LINES:], sep="\n")
            print(f"{what}: failed with status {status}: {' '.join(command)}", flush=True)
        else:
            print(f"{what}: done in {time.monotonic() - started:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
