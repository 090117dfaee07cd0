"""load_model: from a name or a file to a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ciuic.errors import ModelFormatError, UsageError
from ciuic.runtime import Runtime, default_runtime

from .converted import is_converted, open_converted, take_weights
from .deepseek import deepseek_network
from .fetch import find_smollm2
from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .huggingface_tokenizer import chat_template, huggingface_tokenizer
from .llama import llama_network
from .model import Model, Network
from .names import DEFAULT_MODEL, SMOLLM2
from .qwen2 import qwen2_network
from .tokenizer import Tokenizer, gguf_tokenizer
from .weight_file import WeightFile
from .weights import Quantize

GGUF_FAMILIES: dict[str, Callable[..., Network]] = {
    "deepseek2": deepseek_network,
    "llama": llama_network,
    "qwen2": qwen2_network,
}
"""``general.architecture`` -> what makes the network of a GGUF file."""
FOLDER_FAMILIES: dict[str, Callable[..., Network]] = {
    "deepseek_v2": deepseek_network,
    "deepseek_v3": deepseek_network,
    "llama": llama_network,
    "qwen2": qwen2_network,
}
"""``model_type`` -> what makes the network of a Hugging Face folder."""
Source = GgufFile | HuggingFaceFolder


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
        A GGUF file, a Hugging Face folder, a folder that ``ciuic convert`` wrote, or a name:
        ``ciuic.DEFAULT_MODEL`` is the model that comes with Ciuic,
        ``"smollm2-135m-instruct"`` the one that ``ciuic fetch`` brings.
    quantize
        Linear layers: "auto" has INT8 weights and activations on FPGAs and float32 elsewhere,
        "int8" has INT8 everywhere, "int4" INT4 weights with a scale per group of 32 (but an INT8
        output matrix), None float32 everywhere (an FPGA has no kernel for that).
    runtime
        Runs the operators; the process's own by default.

    Raises
    ------
    ModelFormatError
        If the file is missing, broken, or of a kind that is not supported.
    UsageError
        If ``quantize`` is unknown.
    """
    if quantize not in ("auto", "int8", "int4", None):
        raise UsageError(f"quantize must be 'auto', 'int8', 'int4' or None, not {quantize!r}")
    path = find_model(path)
    runtime = runtime or default_runtime()
    source: Source
    converted: WeightFile | None = None
    if is_converted(path):
        source, converted, form = open_converted(path)
        if quantize not in ("auto", form):
            raise UsageError(f"{path} has weights as {form!r} only, not as {quantize!r}")
        quantize = form
    else:
        source = HuggingFaceFolder(path) if path.is_dir() else GgufFile(path)
    try:
        network = model_network(source, quantize=quantize, runtime=runtime)
        if converted is not None:
            take_weights(network, converted)
        tokenizer, template = _text_side(source, network)
        return Model(
            source=source,
            network=network,
            tokenizer=tokenizer,
            template=template,
            runtime=runtime,
        )
    except BaseException:
        source.close()
        raise


def model_network(source: Source, *, quantize: Quantize | None, runtime: Runtime) -> Network:
    """Return what a model's family makes of its file.

    Raises
    ------
    ModelFormatError
        If there is no such family, or the file lacks what the family needs.
    """
    family: object
    if isinstance(source, GgufFile):
        key, family, families = "architecture", source.architecture, GGUF_FAMILIES
    else:
        key, family, families = "model_type", source.config.get("model_type"), FOLDER_FAMILIES
    if not isinstance(family, str) or family not in families:
        known = ", ".join(families)
        raise ModelFormatError(source.path, f"{key} must be one of {known}, not {family!r}")
    return families[family](source, quantize=quantize, runtime=runtime)


def _text_side(source: Source, network: Network) -> tuple[Tokenizer, str | None]:
    """Return the tokenizer, and the chat template's source if there is one."""
    if isinstance(source, HuggingFaceFolder):
        return huggingface_tokenizer(source, network.config.vocab_size), chat_template(source)
    template = source.metadata.get("tokenizer.chat_template")
    return gguf_tokenizer(source), None if template is None else str(template)


def find_model(path: str | Path) -> Path:
    """Return where a model lies; a name comes before a file of that name."""
    if path == SMOLLM2:
        return find_smollm2()
    return Path(__file__).parent / DEFAULT_MODEL if path == DEFAULT_MODEL else Path(path)
