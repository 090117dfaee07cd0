"""What every family takes from a Hugging Face folder or GGUF file: weights, tokenizer, template.

Families name their weights as Hugging Face folders do. For GGUF files the names are translated by
the ``gguf`` package's own table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

from ciuic.errors import ModelFormatError
from ciuic.runtime import Runtime

from .config import ModelConfig
from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .huggingface_tokenizer import chat_template, huggingface_tokenizer
from .model import Layer, Model
from .tensor_source import TensorSource
from .tokenizer import Tokenizer, gguf_tokenizer
from .weights import LayerWeights, Quantize

Part = tuple[str, str, tuple[int, ...]]  # a weight's role, name in the folder, and shape there
ITEM = re.compile(r"(.*\.experts)\.(\d+)(\..*)")  # one of the experts that GGUF keeps together


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An open model file, the same to the families whatever its kind.

    Parameters
    ----------
    tensors
        Where weights are read from.
    name_of
        From the name in a Hugging Face folder to the name in ``tensors``.
    tokenizer, template
        Text to ids and back; source of the chat template, or None.
    """

    tensors: TensorSource
    name_of: Callable[[str], str]
    tokenizer: Tokenizer
    template: str | None

    def weights(self, parts: Iterable[Part], quantize: Quantize | None, **how: Any) -> LayerWeights:
        """Return weights, read when they are needed; ``how`` is for `LayerWeights`.

        Raises
        ------
        ModelFormatError
            If one is missing or has another shape.
        """
        names, shapes = {}, {}
        for role, name, shape in parts:
            names[role], shapes[role] = self.name_of(name), shape
            if names[role] not in self.tensors.tensors:  # before a wrong count makes many more
                raise ModelFormatError(self.tensors.path, f"tensor {names[role]} is missing")
        return LayerWeights(self.tensors, names, shapes, quantize, **how)

    def model(
        self,
        config: ModelConfig,
        layers: Sequence[Layer],
        *,
        tied: bool,
        quantize: Quantize | None,
        runtime: Runtime,
    ) -> Model:
        """Return the model of these layers, with its embedding and head."""
        table, matrix = "model.embed_tokens.weight", (config.vocab_size, config.dim)
        output = table if tied else "lm_head.weight"
        return Model(
            source=self.tensors,
            config=config,
            tokenizer=self.tokenizer,
            template=self.template,
            layers=layers,
            embedding=self.weights([("table", table, matrix)], None, transpose=False),
            head=self.weights(
                [("norm", "model.norm.weight", (config.dim,)), ("output", output, matrix)], quantize
            ),
            runtime=runtime,
        )


def folder_checkpoint(folder: HuggingFaceFolder, vocab_size: int) -> Checkpoint:
    """Return a folder as a checkpoint.

    Raises
    ------
    ModelFormatError
        If its tokenizer is missing or does not fit.
    """
    return Checkpoint(
        tensors=folder,
        name_of=str,
        tokenizer=huggingface_tokenizer(folder, vocab_size),
        template=chat_template(folder),
    )


def gguf_checkpoint(
    file: GgufFile, n_layers: int, tensors: TensorSource | None = None
) -> Checkpoint:
    """Return a GGUF file as a checkpoint; ``tensors`` are its own unless a family derives others.

    Raises
    ------
    ModelFormatError
        If its tokenizer is missing or does not fit, or it cannot hold that many layers.
    """
    if n_layers > len(file.tensors):
        raise ModelFormatError(file.path, f"{n_layers} layers need more tensors than there are")
    architectures = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    known = get_tensor_name_map(architectures[file.architecture], n_layers)

    def name_of(name: str) -> str:
        item = ITEM.fullmatch(name)
        if item is not None:
            return f"{name_of(item[1] + item[3])}[{item[2]}]"
        name = name.replace("_correction_bias", "_correction.bias")
        return str(known.get_name(name, try_suffixes=(".weight", ".bias")))

    template = file.metadata.get("tokenizer.chat_template")
    return Checkpoint(
        tensors=tensors or file,
        name_of=name_of,
        tokenizer=gguf_tokenizer(file),
        template=None if template is None else str(template),
    )
