"""What every family takes from a Hugging Face folder or GGUF file: weights under their names.

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

from .config import ModelConfig
from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .model import Layer, Network
from .tensor_source import TensorSource
from .weights import LayerWeights, Quantize, head_form

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
    """

    tensors: TensorSource
    name_of: Callable[[str], str]

    def weights(self, parts: Iterable[Part], quantize: Quantize | None, **how: Any) -> LayerWeights:
        """Return weights, read when they are needed; ``how`` is for `LayerWeights`.

        Raises
        ------
        ModelFormatError
            If one is missing or has another shape.
        """
        names, shapes = {}, {}
        known = self.tensors.tensors
        for role, name, shape in parts:
            names[role], shapes[role] = self.name_of(name), shape
            # Before a wrong count makes many more:
            if known is not None and names[role] not in known:
                raise ModelFormatError(self.tensors.path, f"tensor {names[role]} is missing")
        return LayerWeights(self.tensors, names, shapes, quantize, **how)

    def network(
        self,
        config: ModelConfig,
        layers: Sequence[Layer],
        *,
        tied: bool,
        quantize: Quantize | None,
    ) -> Network:
        """Return the network of these layers, with its embedding and head."""
        table, matrix = "model.embed_tokens.weight", (config.vocab_size, config.dim)
        output = table if tied else "lm_head.weight"
        return Network(
            config=config,
            layers=layers,
            embedding=self.weights([("table", table, matrix)], None, transpose=False),
            head=self.weights(
                [("norm", "model.norm.weight", (config.dim,)), ("output", output, matrix)],
                head_form(quantize),
            ),
        )


def folder_checkpoint(folder: HuggingFaceFolder) -> Checkpoint:
    """Return a folder as a checkpoint."""
    return Checkpoint(tensors=folder, name_of=str)


def gguf_checkpoint(
    file: GgufFile, n_layers: int, tensors: TensorSource | None = None
) -> Checkpoint:
    """Return a GGUF file as a checkpoint; ``tensors`` are its own unless a family derives others.

    Raises
    ------
    ModelFormatError
        If it cannot hold that many layers.
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

    return Checkpoint(tensors=tensors or file, name_of=name_of)
