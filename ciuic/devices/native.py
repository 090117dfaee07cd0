"""The CPU device's kernels in C: compiled once for this processor, found again afterwards.

The library lies in the user's cache folder under a hash of everything that it depends on: source,
flags, compiler and processor. It is written beside its place and renamed into it, so that
parallel processes and interrupted ones leave nothing broken behind. There is no compiler on every
machine; `load` then says so, and the numpy kernels of `ciuic.ops` give the same bits.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ciuic.cache import cache_folder

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("cpu_kernels.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = (
    *("-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11"),
    # Each float operation rounds by itself, as numpy's do; integers wrap.
    *("-ffp-contract=off", "-fwrapv", "-fno-math-errno", "-fno-trapping-math"),
)
COMPILE_SECONDS = 120.0  # the longest that compiling may take
HOW_TO_GET = "apt-get install gcc"


class Native(NamedTuple):
    """The compiled kernels, or why there are none.

    Attributes
    ----------
    library
        None if it could not be compiled.
    form
        Which instructions its products use, or why there is no library.
    """

    library: ctypes.CDLL | None
    form: str


@lru_cache(maxsize=8)
def load(flags: Sequence[str] = ()) -> Native:
    """Return the compiled kernels; compile them if that was not done before.

    Parameters
    ----------
    flags
        Further flags of the compiler, such as ``-DCIUIC_PLAIN`` (see the source).
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return Native(None, f"no C compiler ({', '.join(COMPILERS)})")
    command = (compiler, *FLAGS, *flags)
    try:
        path = cache_folder() / "cpu-kernels" / f"{_key(command)}.so"
        if not path.is_file():
            _compile(command, path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("the CPU device works without its fast kernels: %s", _reason(error))
        return Native(None, f"{Path(compiler).name} failed")
    library.ciuic_form.restype = ctypes.c_char_p
    library.ciuic_read.argtypes = [ctypes.c_void_p, ctypes.c_long]
    return Native(library, library.ciuic_form().decode())


def _compile(command: Sequence[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        subprocess.run(
            [*command, "-o", str(draft), str(SOURCE), "-lm"],
            capture_output=True,
            check=True,
            timeout=COMPILE_SECONDS,
        )
        draft.replace(path)


def _key(command: Sequence[str]) -> str:
    """Return a name for what a command makes of the source on this processor."""
    compiler = Path(command[0]).resolve()
    found = compiler.stat()
    parts = (
        SOURCE.read_bytes(),
        "\0".join(command).encode(),
        f"{compiler} {found.st_size} {found.st_mtime_ns}".encode(),
        processor().encode(),
    )
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@lru_cache(maxsize=1)
def processor() -> str:
    """Return what this processor is and can do: a compiler's ``native`` depends on it."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.partition("\t")[0].strip() in wanted)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said: bytes = error.stderr
        return said.decode(errors="replace").strip()[-500:]
    return str(error)
