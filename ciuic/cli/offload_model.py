"""The model on disk of ``ciuic bench offload``.

A Llama of random weights whose layers are as wide as those of a model of some billion parameters,
so that a layer takes milliseconds; it is written for the bench and deleted again.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Bpe
from tokenizers.models import BPE

from ciuic.devices import Weight
from ciuic.memory.blocks import BLOCKS
from ciuic.models.converted import WEIGHTS, named_parts, take_weights
from ciuic.models.huggingface import CONFIG as CONFIG_NAME
from ciuic.models.huggingface import HuggingFaceFolder
from ciuic.models.loading import model_network
from ciuic.models.model import Model
from ciuic.models.tokenizer import Tokenizer
from ciuic.models.weight_file import WeightFile, WeightWriter
from ciuic.models.weights import LayerWeights
from ciuic.quantize import QuantizedMatrix, block_of
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from . import output

WIDTHS: dict[str, int] = {"hidden_size": 4096, "intermediate_size": 11008}
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
SCALE = 1e-3  # of random weights: the hidden state stays of the size of its input


class Copies(WeightFile):
    """A file whose weights are copied into memory, where they stay whatever becomes of the file."""

    def weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        """Return a weight as `WeightFile.weight` does, copied."""
        weight = super().weight(name, shape)
        if not isinstance(weight, QuantizedMatrix):
            return weight
        values = BLOCKS.take(weight.values.size).reshape(weight.shape[::-1])  # (n, k)
        values[...] = weight.values.T
        return replace(weight, values=values.T, extent=None)


def write_source(folder: Path, nbytes: int) -> HuggingFaceFolder:
    """Write the configuration of a model of about ``nbytes`` bytes; return its source."""
    dim, hidden_dim = WIDTHS["hidden_size"], WIDTHS["intermediate_size"]
    kv_dim = dim * CONFIG["num_key_value_heads"] // CONFIG["num_attention_heads"]
    layer_nbytes = dim * (2 * dim + 2 * kv_dim + 3 * hidden_dim)
    config = {**CONFIG, **WIDTHS, "num_hidden_layers": max(1, round(nbytes / layer_nbytes))}
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    return HuggingFaceFolder(folder, weights=False)


def write_weights(
    folder: Path, source: HuggingFaceFolder, runtime: Runtime, report: output.Report
) -> None:
    """Write random weights of a source's model."""
    network = model_network(source, quantize="int8", runtime=runtime)
    parts = [(prefix, part, role) for prefix, part in named_parts(network) for role in part.stored]
    rng = np.random.default_rng(0)
    with (folder / WEIGHTS).open("w+b") as file:
        writer = WeightWriter(file, [prefix + role for prefix, _, role in parts])
        for done, (prefix, part, role) in enumerate(parts):
            report("writing the model on disk", done, len(parts))
            writer.write(prefix + role, _random(part, prefix, role, rng))
        writer.finish()
        os.fsync(file.fileno())  # what is not on disk yet cannot be forgotten
    report("writing the model on disk", len(parts), len(parts))


def loaded(source: HuggingFaceFolder, weights: WeightFile, runtime: Runtime) -> Model:
    """Return a source's model with the weights of a file."""
    network = model_network(source, quantize="int8", runtime=runtime)
    take_weights(network, weights)
    return Model(
        source=source,
        network=network,
        tokenizer=Tokenizer(["a"], Bpe(BPE()), special=[], end_ids=[], bos_id=None),
        template=None,
        runtime=runtime,
    )


def _random(part: LayerWeights, prefix: str, role: str, rng: np.random.Generator) -> Weight:
    shape = part.stored[role].shape
    if len(shape) == 1:
        return CiuicTensor.adopt(np.ones(shape, np.float32))
    if prefix == "embedding.":
        return CiuicTensor.adopt(rng.standard_normal(shape, np.float32))
    n, k = shape
    values = rng.integers(-127, 128, (n, k), np.int8)
    return QuantizedMatrix(values.T, np.full(n, SCALE, np.float32), block_of(k))
