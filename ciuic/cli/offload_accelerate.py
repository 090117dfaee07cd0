"""A Llama's matrices under `accelerate`'s disk offload: what `ciuic bench offload` compares with.

The same INT8 weights and the same products (`torch._int_mm`, activations quantized by rows) in
modules that `accelerate.dispatch_model` keeps in memory, in their order, as far as the cap goes
beside the largest of them, and reads from its folder when they are called. Attention and rotation
are left out, in its favour.

Needs torch and accelerate (extra ``accelerate``); `is_here` says whether they are.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ciuic.devices.disk import drop_cached
from ciuic.quantize import LEVELS, QuantizedMatrix

if TYPE_CHECKING:
    from ciuic.models.model import Model
    from ciuic.models.weights import LayerWeights

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
HEAD = "output"


def is_here() -> bool:
    """Return whether torch and accelerate are installed."""
    return find_spec("torch") is not None and find_spec("accelerate") is not None


class Offloaded:
    """The matrices of a model as torch modules, dispatched.

    Parameters
    ----------
    model
        A Llama in INT8.
    cap
        Bytes of weights in memory.
    folder
        Where accelerate keeps the others.
    """

    def __init__(self, model: Model, cap: int, folder: Path) -> None:
        import torch
        from accelerate import dispatch_model

        torch.set_num_threads(1)  # as Ciuic's CPU device
        modules = {
            f"{index}": torch.nn.ModuleDict(_matrices(layer.weights, ROLES))
            for index, layer in enumerate(model.layers)
        }
        modules["head"] = torch.nn.ModuleDict(_matrices(model.network.head, (HEAD,)))
        sizes = {
            f"{part}.{role}": sum(b.numel() * b.element_size() for b in one.buffers())
            for part, module in modules.items()
            for role, one in module.items()
        }
        left = cap - max(sizes.values())
        places: dict[str, str] = {}
        for name, nbytes in sizes.items():
            places[name] = "cpu" if nbytes <= left else "disk"
            left -= nbytes if places[name] == "cpu" else left  # in order: then all on disk
        self._folder = folder
        self._modules: Any = torch.nn.ModuleDict(modules)
        if "disk" in places.values():
            self._modules = dispatch_model(
                self._modules,
                device_map=places,
                main_device="cpu",
                offload_dir=str(folder),
                offload_buffers=True,
            )
        self._x = torch.from_numpy(np.ones((1, model.hidden_size), np.float32))

    def token_seconds(self) -> float:
        """Return the seconds of a token, before which the files are in no memory."""
        import torch

        for file in self._folder.iterdir():
            drop_cached(file)
        start = time.perf_counter()
        with torch.no_grad():
            self._token(torch.nn.functional.rms_norm)
        return time.perf_counter() - start

    def _token(self, norm: Any) -> None:
        *layers, head = self._modules.values()
        x = self._x
        for layer in layers:
            h = norm(x, x.shape[1:])
            layer["k"](h)
            layer["v"](h)
            x = x + layer["o"](layer["q"](h))
            h = norm(x, x.shape[1:])
            x = x + layer["down"](layer["gate"](h) * layer["up"](h))
        head[HEAD](x)


def _matrices(weights: LayerWeights, roles: tuple[str, ...]) -> dict[str, Any]:
    return {role: _module(weights.read(role)) for role in roles}


def _module(weight: Any) -> Any:
    import torch

    assert isinstance(weight, QuantizedMatrix)

    class Linear(torch.nn.Module):
        """A linear layer in INT8: x float32 (t, k) -> (t, n)."""

        def __init__(self, weight: QuantizedMatrix) -> None:
            super().__init__()
            self.register_buffer("values", torch.from_numpy(weight.values.T.copy()))  # (n, k)
            self.register_buffer("scales", torch.from_numpy(weight.scales.copy()))

        def forward(self, x: Any) -> Any:
            scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / LEVELS
            product = torch._int_mm(torch.round(x / scale).to(torch.int8), self.values.t())
            return product.to(torch.float32) * (scale * self.scales)

    return Linear(weight)
