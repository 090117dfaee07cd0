"""Converted models: a folder that holds a model's weights as devices take them.

Beside ``weights.safetensors`` (`ciuic.models.weight_file`) lies what the model was made of without
its weights, config.json and tokenizer or the header of its GGUF file, and `MANIFEST`: the format,
and the sha256 of every file. Nothing is quantized again when such a folder is loaded, so that it
writes the same tokens.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from ciuic.errors import ModelFormatError, UsageError

from .gguf_file import GgufFile
from .huggingface import CONFIG, HuggingFaceFolder, read_json
from .huggingface_tokenizer import SETTINGS, TOKENIZER
from .model import Model, Network
from .progress import Report, silent
from .weight_file import WeightFile, WeightWriter, sha256_of
from .weights import LayerWeights

Format = Literal["int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)

MANIFEST, WEIGHTS, GGUF_HEADER = "ciuic.json", "weights.safetensors", "header.gguf"
VERSION = 1
BESIDE = (CONFIG, TOKENIZER, SETTINGS, "generation_config.json", "chat_template.jinja")
"""Files of a Hugging Face folder that are taken along."""


def is_converted(path: Path) -> bool:
    """Return whether a folder holds a converted model."""
    return (path / MANIFEST).is_file()


def open_converted(path: Path) -> tuple[GgufFile | HuggingFaceFolder, WeightFile, Format]:
    """Return the source of a converted model's network and text side, its weights and format.

    Raises
    ------
    ModelFormatError
        If the folder is broken or of another version.
    """
    manifest = read_json(path / MANIFEST)
    version, form = manifest.get("version"), manifest.get("format")
    if version != VERSION or form not in FORMATS:
        raise ModelFormatError(
            path / MANIFEST,
            f"version must be {VERSION} and format one of {', '.join(FORMATS)}, "
            f"not {version!r} and {form!r}",
        )
    weights = WeightFile(path / WEIGHTS)
    if (path / GGUF_HEADER).is_file():
        return GgufFile(path / GGUF_HEADER, header_only=True), weights, form
    return HuggingFaceFolder(path, weights=False), weights, form


def take_weights(network: Network, weights: WeightFile) -> None:
    """Let a network read its weights from a converted file."""
    for prefix, part in named_parts(network):
        part.read_from(weights, prefix)


def convert(
    model: Model,
    folder: Path,
    *,
    form: Format = "int8",
    force: bool = False,
    report: Report = silent,
) -> None:
    """Write a model to a folder, whole or not at all.

    Parameters
    ----------
    model
        Loaded with ``quantize=form``.
    folder
        Where to; it must not exist unless ``force``, which replaces it.
    report
        Told how many weights have been written.

    Raises
    ------
    UsageError
        If the folder is there already or cannot be made.
    """
    check_target(folder, force=force)
    parts = [
        (f"{prefix}{role}", part, role)
        for prefix, part in named_parts(model.network)
        for role in part.stored
    ]
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as draft_name:
        draft = Path(draft_name) / folder.name
        draft.mkdir()
        sums = {name: _sha256(draft / name) for name in _take_along(model, draft)}
        with (draft / WEIGHTS).open("w+b") as file:
            writer = WeightWriter(file, [name for name, _, _ in parts])
            for done, (name, part, role) in enumerate(parts):
                report("converting", done, len(parts))
                writer.write(name, part.read(role))
            sums[WEIGHTS] = writer.finish()
        manifest = {"version": VERSION, "format": form, "model": model.config.name, "sha256": sums}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        if folder.exists():
            folder.rename(Path(draft_name) / "replaced")
        draft.rename(folder)
    report("converting", len(parts), len(parts))


def check_target(folder: Path, *, force: bool) -> None:
    """Raise `UsageError` unless a folder can be written to."""
    if not folder.parent.is_dir():
        raise UsageError(f"the folder must be in one that exists, not {str(folder)!r}")
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists already; --force replaces it")
    if folder.exists() and not is_converted(folder):
        raise UsageError(f"{folder} is no converted model, so --force does not replace it")


def verify(folder: Path, report: Report = silent) -> None:
    """Read every file of a converted model and compare its sha256.

    Raises
    ------
    ModelFormatError
        If one is missing or differs.
    """
    sums = read_json(folder / MANIFEST).get("sha256")
    if not isinstance(sums, dict) or WEIGHTS not in sums:
        raise ModelFormatError(folder / MANIFEST, "sha256 must name the folder's files")
    for done, (name, wanted) in enumerate(sums.items()):
        report("verifying", done, len(sums))
        if Path(name).name != name:
            raise ModelFormatError(folder / MANIFEST, f"{name!r} is no file of the folder")
        found = _sha256(folder / name)
        if found != wanted:
            raise ModelFormatError(folder / name, f"sha256 must be {wanted}, not {found}")
    report("verifying", len(sums), len(sums))


def named_parts(network: Network) -> Iterator[tuple[str, LayerWeights]]:
    """Yield all weights, the table first, and what goes before their roles in the file."""
    yield "embedding.", network.embedding
    for index, layer in enumerate(network.layers):
        yield f"layers.{index}.", layer.weights
    yield "head.", network.head


def _take_along(model: Model, folder: Path) -> Iterator[str]:
    """Write what the network and the text side are made from; yield the files' names."""
    source = model.source
    if isinstance(source, GgufFile):
        (folder / GGUF_HEADER).write_bytes(source.header())
        yield GGUF_HEADER
        return
    for name in BESIDE:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
            yield name


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return sha256_of(file)
    except OSError as error:
        raise ModelFormatError(path, f"cannot be read ({error.strerror})") from error
