"""Ciuic: language models on CPU, GPU and FPGA from Python. This is the public surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .batch_pipeline import BatchPipeline
from .devices import Device, DeviceManager
from .errors import CiuicError
from .memory import MemoryHierarchy, TensorPool
from .ops import CustomOperator, register_operator
from .quantize import QuantizedMatrix, quantize_columns
from .runtime import Runtime
from .task_scheduler import TaskScheduler
from .tensor import CiuicTensor

if TYPE_CHECKING:
    from .models.loading import load_model
    from .models.names import DEFAULT_MODEL

__all__ = [
    "DEFAULT_MODEL",
    "BatchPipeline",
    "CiuicError",
    "CiuicTensor",
    "CustomOperator",
    "Device",
    "DeviceManager",
    "MemoryHierarchy",
    "QuantizedMatrix",
    "Runtime",
    "TaskScheduler",
    "TensorPool",
    "load_model",
    "quantize_columns",
    "register_operator",
]


def __getattr__(name: str) -> Any:
    # Models need packages of the extra `model`, which `import ciuic` must not ask for.
    if name == "load_model":
        from .models.loading import load_model

        return load_model
    if name == "DEFAULT_MODEL":
        from .models.names import DEFAULT_MODEL

        return DEFAULT_MODEL
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
