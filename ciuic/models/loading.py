"""load_model: from a name or a file to a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ciuic.errors import ModelFormatError, UsageError
from ciuic.runtime import Runtime, default_runtime

from .deepseek import deepseek_model
from .fetch import find_smollm2
from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .llama import llama_model
from .model import Model
from .names import DEFAULT_MODEL, SMOLLM2
from .qwen2 import qwen2_model
from .weights import Quantize

GGUF_FAMILIES: dict[str, Callable[..., Model]] = {
    "deepseek2": deepseek_model,
    "llama": llama_model,
    "qwen2": qwen2_model,
}
"""``general.architecture`` -> what makes a model of a GGUF file."""
FOLDER_FAMILIES: dict[str, Callable[..., Model]] = {
    "deepseek_v2": deepseek_model,
    "deepseek_v3": deepseek_model,
    "llama": llama_model,
    "qwen2": qwen2_model,
}
"""``model_type`` -> what makes a model of a Hugging Face folder."""


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
        A GGUF file, a Hugging Face folder, or a name: ``ciuic.DEFAULT_MODEL`` is the model that
        comes with Ciuic, ``"smollm2-135m-instruct"`` the one that ``ciuic fetch`` brings.
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
    path = _find(path)
    source: GgufFile | HuggingFaceFolder
    if path.is_dir():
        source = HuggingFaceFolder(path)
        key, family, families = "model_type", source.config.get("model_type"), FOLDER_FAMILIES
    else:
        source = GgufFile(path)
        key, family, families = "architecture", source.architecture, GGUF_FAMILIES
    try:
        if not isinstance(family, str) or family not in families:
            known = ", ".join(families)
            raise ModelFormatError(source.path, f"{key} must be one of {known}, not {family!r}")
        return families[family](source, quantize=quantize, runtime=runtime or default_runtime())
    except BaseException:
        source.close()
        raise


def _find(path: str | Path) -> Path:
    """Return where a model lies; a name comes before a file of that name."""
    if path == SMOLLM2:
        return find_smollm2()
    return Path(__file__).parent / DEFAULT_MODEL if path == DEFAULT_MODEL else Path(path)
