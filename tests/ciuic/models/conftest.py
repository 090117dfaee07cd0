"""Small GGUF files, written with the `gguf` package, and the real model where it is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import pytest

from ciuic.models.fetch import FETCH_COMMAND, smollm2_file
from ciuic.models.tokenizer import byte_characters

DIM, HIDDEN_DIM, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
SPECIAL = ["<|end|>", "<|turn|>"]
MERGES = ["t h", "th e", "Ġ a", "Ġ the", "1 2"]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>{% endif %}"
)
Write = Callable[..., Path]
Rewrite = Callable[[Path, bytes], None]


def vocabulary() -> list[str]:
    """Return two special tokens, one token per byte, and what the merges make."""
    return [*SPECIAL, *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]


def random_tensors(
    seed: int = 0, *, tied: bool = True, n_kv_heads: int = KV_HEADS
) -> dict[str, np.ndarray]:
    """Return random weights of a small Llama by their names in GGUF, float32."""
    rng = np.random.default_rng(seed)

    def matrix(n: int, k: int) -> np.ndarray:
        return (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)

    def gain() -> np.ndarray:
        return (1 + 0.2 * rng.standard_normal(DIM)).astype(np.float32)

    head_dim = DIM // HEADS
    tensors = {"token_embd.weight": matrix(len(vocabulary()), DIM), "output_norm.weight": gain()}
    if not tied:
        tensors["output.weight"] = matrix(len(vocabulary()), DIM)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        tensors |= {
            prefix + "attn_norm.weight": gain(),
            prefix + "attn_q.weight": matrix(HEADS * head_dim, DIM),
            prefix + "attn_k.weight": matrix(n_kv_heads * head_dim, DIM),
            prefix + "attn_v.weight": matrix(n_kv_heads * head_dim, DIM),
            prefix + "attn_output.weight": matrix(DIM, HEADS * head_dim),
            prefix + "ffn_norm.weight": gain(),
            prefix + "ffn_gate.weight": matrix(HIDDEN_DIM, DIM),
            prefix + "ffn_up.weight": matrix(HIDDEN_DIM, DIM),
            prefix + "ffn_down.weight": matrix(DIM, HIDDEN_DIM),
        }
    return tensors


def metadata(n_kv_heads: int = KV_HEADS) -> dict[str, Any]:
    """Return the keys of a small Llama; integers are written as uint32, lists by their items."""
    tokens = vocabulary()
    return {
        "general.name": "small",
        "llama.block_count": LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": DIM,
        "llama.feed_forward_length": HIDDEN_DIM,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": n_kv_heads,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }


def write_gguf(
    path: Path,
    keys: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    architecture: str = "llama",
) -> Path:
    """Write a GGUF file; tensors named in ``types`` are quantized unless they are bytes already."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else list(value))
    for name, tensor in tensors.items():
        type_ = (types or {}).get(name)
        packed = type_ is None or tensor.dtype == np.uint8
        data = tensor if packed else gguf.quants.quantize(tensor, type_)
        writer.add_tensor(name, data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def small_model(tmp_path: Path) -> Write:
    """Return a function that writes a small random Llama and returns its path."""

    def write(
        seed: int = 0,
        *,
        tied: bool = True,
        n_kv_heads: int = KV_HEADS,
        keys: Mapping[str, Any] | None = None,
        without: str | None = None,
    ) -> Path:
        chosen = {**metadata(n_kv_heads), **(keys or {})}
        tensors = random_tensors(seed, tied=tied, n_kv_heads=n_kv_heads)
        for table in (chosen, tensors):
            if without is not None:
                table.pop(without, None)
        return write_gguf(tmp_path / "small.gguf", chosen, tensors)

    return write


@pytest.fixture
def rewrite() -> Iterator[Rewrite]:
    """Return a function that gives a file other content: a disk makes a new one far slower."""
    opened: dict[Path, BinaryIO] = {}

    def write(path: Path, content: bytes) -> None:
        if path not in opened:
            opened[path] = path.open("w+b", buffering=0)
        opened[path].seek(0)
        opened[path].truncate(opened[path].write(content))

    yield write
    for file in opened.values():
        file.close()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """Return the path of the fetched SmolLM2."""
    path = smollm2_file()
    if not path.is_file():
        pytest.skip(f"needs {path.name}; run: {FETCH_COMMAND}")
    return path
