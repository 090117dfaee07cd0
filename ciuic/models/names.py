"""Models that Ciuic knows by name."""

DEFAULT_MODEL = "deepseek-tiny"
"""Of DeepSeek-V3's architecture; comes with Ciuic, trained by ``tools/train_tiny.py``."""

SMOLLM2 = "smollm2-135m-instruct"
"""A Llama of 135 million parameters that answers; ``ciuic fetch`` brings it."""
