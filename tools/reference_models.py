"""Record what `transformers` computes for small random models of every family.

    make references

Writes ``tests/data/model_logits.npz``: the logits (every `STRIDE`-th of the vocabulary) of the
models of ``tests/ciuic/models/small_*.py``, and of ``deepseek-tiny`` with its trained weights,
float32. Imports nothing of Ciuic: the values are to be independent of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[1]
STRIDE = {"tiny": 64, "small": 4}
TINY_TOKENS = 48

sys.path.insert(0, str(ROOT / "tests" / "ciuic" / "models"))
import small_deepseek  # noqa: E402
import small_dense  # noqa: E402


def expand_float8(folder: Path) -> None:
    """Make a folder's FP8 weights float32, by torch's own idea of the format."""
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config", None)
    if quantization is None:
        return
    rows, columns = quantization["weight_block_size"]
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_scale_inv")]:
        weight = name.removesuffix("_scale_inv")
        scales = tensors.pop(name).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        n, k = tensors[weight].shape
        tensors[weight] = tensors[weight].float() * scales[:n, :k]
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def logits(folder: Path, ids: list[int]) -> np.ndarray:
    """Return the logits (t, vocab) of a sequence."""
    model, told = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    if told["missing_keys"] or told["unexpected_keys"] or told["mismatched_keys"]:
        raise SystemExit(f"{folder}: transformers does not know these weights: {told}")
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].numpy()


def main() -> None:
    """Record all models."""
    torch.set_num_threads(1)  # the same sums on every machine
    recorded = {}
    for family in (small_deepseek, small_dense):
        for variant in family.VARIANTS:
            with tempfile.TemporaryDirectory() as folder:
                path = family.write_folder(Path(folder), variant)
                expand_float8(path)
                exact = logits(path, family.token_ids(variant))
            recorded[variant] = exact[:, :: STRIDE["small"]]
    ids = np.random.default_rng(5).integers(2, 4096, TINY_TOKENS)
    recorded["deepseek-tiny-ids"] = ids
    exact = logits(ROOT / "ciuic" / "models" / "deepseek-tiny", ids.tolist())
    recorded["deepseek-tiny"] = exact[:, :: STRIDE["tiny"]]
    np.savez_compressed(ROOT / "tests" / "data" / "model_logits.npz", **recorded)


if __name__ == "__main__":
    main()
