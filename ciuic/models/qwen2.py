"""The Qwen2 family, which R1-Distill-Qwen is of: Llama's layer with biases of q, k and v.

Source: Yang et al., "Qwen2 Technical Report", section 2.2.1.
"""

from __future__ import annotations

from ciuic.runtime import Runtime

from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .llama import dense_network
from .llama_config import LlamaConfig, folder_config, gguf_config
from .model import Network
from .weights import Quantize


def qwen2_config(source: HuggingFaceFolder | GgufFile) -> LlamaConfig:
    """Return the configuration of a folder of type ``qwen2`` or a GGUF file of that architecture.

    Raises
    ------
    ModelFormatError
        If a key is missing, has the wrong type, or asks for something that is not supported.
    """
    if isinstance(source, GgufFile):
        return gguf_config(source, rope_interleaved=False)
    source.keys.require("use_sliding_window", False)
    return folder_config(source, qkv_bias=True, o_bias=False)


def qwen2_network(
    source: HuggingFaceFolder | GgufFile, *, quantize: Quantize | None, runtime: Runtime
) -> Network:
    """Return the network in a folder or GGUF file of this family; its weights are read later.

    Raises
    ------
    ModelFormatError
        If anything that the model needs is missing or does not fit.
    """
    return dense_network(source, qwen2_config(source), quantize=quantize, runtime=runtime)
