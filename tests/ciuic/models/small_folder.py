"""Writing Hugging Face folders of small models; imports nothing of Ciuic."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ["<|begin|>", "<|end|>"]
VOCAB_SIZE = 272
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "a")]
TYPES = {"float32": "F32", "float16": "F16", "uint8": "F8_E4M3"}  # bytes are taken as FP8


def write_tokenizer(path: Path) -> None:
    """Write the tokenizer.json of a byte-level BPE with three merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *letters, *("".join(pair) for pair in MERGES)]
    bpe = models.BPE(vocab={word: id_ for id_, word in enumerate(words)}, merges=MERGES)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)]
    )
    tokenizer.save(str(path))


def write_weights(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file, bytes as FP8, which numpy has no type for."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": TYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [at, at := at + tensor.nbytes],
        }
    text = json.dumps(header).encode()
    blobs = [tensor.tobytes() for tensor in tensors.values()]
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_model(
    folder: Path, keys: Mapping[str, Any], tensors: Mapping[str, np.ndarray], *, shards: int = 1
) -> Path:
    """Write a model folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(keys))
    write_tokenizer(folder / "tokenizer.json")
    if shards == 1:
        write_weights(folder / "model.safetensors", tensors)
        return folder
    names = [f"model-{part + 1:05}-of-{shards:05}.safetensors" for part in range(shards)]
    placed = {tensor: names[i % shards] for i, tensor in enumerate(tensors)}
    for name in names:
        part = {tensor: tensors[tensor] for tensor in tensors if placed[tensor] == name}
        write_weights(folder / name, part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder
