"""load_model: from a name or a file to a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ciuic.errors import ModelFormatError, UsageError
from ciuic.runtime import Runtime, default_runtime

from .fetch import DEFAULT_MODEL, find_default_model
from .gguf_file import GgufFile
from .llama import llama_model
from .model import Model
from .weights import Quantize

FAMILIES: dict[str, Callable[..., Model]] = {"llama": llama_model}
"""``general.architecture`` -> what makes a model of a file."""


def load_model(
    path: str | Path = DEFAULT_MODEL,
    *,
    quantize: Quantize | None = "auto",
    runtime: Runtime | None = None,
) -> Model:
    """Open a model. Its file is checked now, its weights are read when they are first needed.

    Parameters
    ----------
    path
        A GGUF file, or ``ciuic.DEFAULT_MODEL`` for the one that ``ciuic fetch`` brings.
    quantize
        Linear layers: "auto" has INT8 weights and activations on FPGAs and float32 elsewhere,
        "int8" has INT8 everywhere, None float32 everywhere (an FPGA has no kernel for that).
    runtime
        Runs the operators; the process's own by default.

    Raises
    ------
    ModelFormatError
        If the file is missing, broken, or of a kind that is not supported.
    UsageError
        If ``quantize`` is unknown.
    """
    if quantize not in ("auto", "int8", None):
        raise UsageError(f"quantize must be 'auto', 'int8' or None, not {quantize!r}")
    file = GgufFile(find_default_model() if path == DEFAULT_MODEL else path)
    try:
        family = file.metadata.get("general.architecture")
        if family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ModelFormatError(
                file.path, f"architecture must be one of {known}, not {family!r}"
            )
        return FAMILIES[family](file, quantize=quantize, runtime=runtime or default_runtime())
    except BaseException:
        file.close()
        raise
