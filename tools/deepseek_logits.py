"""Record what `transformers` computes for models of DeepSeek-V3's architecture.

    python -m pip install ".[train]"
    python tools/deepseek_logits.py

Writes ``tests/data/deepseek_logits.npz``: the logits (every `STRIDE`-th of the vocabulary) of the
small random models of ``tests/ciuic/models/small_deepseek.py``, and of ``deepseek-tiny`` with its
trained weights, float32. Imports nothing of Ciuic: the values are to be independent of it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import DeepseekV3ForCausalLM

ROOT = Path(__file__).parents[1]
STRIDE = {"tiny": 64, "small": 4}
TINY_TOKENS = 48

sys.path.insert(0, str(ROOT / "tests" / "ciuic" / "models"))
import small_deepseek  # noqa: E402


def logits(folder: Path, ids: list[int]) -> np.ndarray:
    """Return the logits (t, vocab) of a sequence."""
    model = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def main() -> None:
    """Record all models."""
    recorded = {}
    for variant in small_deepseek.VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            path = small_deepseek.write_folder(Path(folder), variant)
            exact = logits(path, small_deepseek.token_ids(variant))
        recorded[variant] = exact[:, :: STRIDE["small"]]
    ids = np.random.default_rng(5).integers(2, 4096, TINY_TOKENS)
    recorded["deepseek-tiny-ids"] = ids
    exact = logits(ROOT / "ciuic" / "models" / "deepseek-tiny", ids.tolist())
    recorded["deepseek-tiny"] = exact[:, :: STRIDE["tiny"]]
    np.savez_compressed(ROOT / "tests" / "data" / "deepseek_logits.npz", **recorded)


if __name__ == "__main__":
    main()
