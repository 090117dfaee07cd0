"""Launches of opencl_deepseek.cl: latent attention, and a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ciuic.errors import ShapeError
from ciuic.ops.experts import GROUP_BEST, SMALLEST_SUM
from ciuic.ops.latent_attention import is_absorbed

from .array import DeviceArray

OPS = ("latent_attention", "route_tokens", "add_rows")

Inputs = Sequence[DeviceArray]


class DeepseekKernels:
    """What `OpenclDevice` has of these operators."""

    tuning: Any
    _next_between: Any
    _get: Any
    _copy: Any
    _launch: Any
    _launch_mix: Any

    def _latent_attention(
        self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]
    ) -> Any:
        q_nope, q_rope, latents, rope_keys, up_keys, up_values = inputs
        (t, heads, nope), rank, rope = q_nope.shape, latents.shape[1], q_rope.shape[2]
        offset, v = attributes["offset"], up_values.shape[1] // heads
        visible = offset + t
        if absorbed := is_absorbed(t, heads, visible, rank, nope, v, attributes.get("absorbed")):
            q, dim, key_heads = self._next_between(), rank, 1
            strides = (nope, heads * nope, nope, 1, nope, heads * nope)
            self._launch("head_product", (rank, heads, t), q_nope.data, up_keys.data, q, *strides)
            keys = values = latents.data
        else:
            q, dim, key_heads = q_nope.data, nope, heads
            keys, values = (
                self._expanded(latents, up, heads, visible) for up in (up_keys, up_values)
            )
        scores, weights = self._next_between(), self._next_between()
        self._launch(
            "latent_scores",
            (visible, heads, t),
            *(q, keys, q_rope.data, rope_keys.data, scores),
            *(key_heads, dim, rope, visible, offset),
            *(np.float32(attributes["scale"]), np.float32(attributes.get("rope_gain", 1.0))),
        )
        self._launch(
            "attention_weights", (t * heads,), scores, weights, heads, visible, offset, group=True
        )
        result = output.data
        if not absorbed:
            self._launch_mix(t, weights, values, result, heads, heads, v, visible, offset)
            return result
        mixed = self._next_between()
        self._launch_mix(t, weights, values, mixed, heads, 1, rank, visible, offset)
        strides = (rank, heads * rank, rank, heads * v, v, 1)
        self._launch("head_product", (v, heads, t), mixed, up_values.data, result, *strides)
        return result

    def _expanded(self, latents: DeviceArray, up: DeviceArray, heads: int, visible: int) -> Any:
        """Return what the latents stand for in each head, (visible, heads, width)."""
        rank, width = up.shape[0], up.shape[1] // heads
        result = self._next_between()
        strides = (rank, rank, 0, up.shape[1], width, 1)
        self._launch(
            "head_product", (width, heads, visible), latents.data, up.data, result, *strides
        )
        return result

    def _route_tokens(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        x, weight, bias = inputs
        (t, d), experts = x.shape, bias.shape[0]
        n_group, scoring = attributes.get("n_group", 1), attributes.get("scoring", "sigmoid")
        real = self.tuning.real_dtype
        affinity, choice, group_scores = (self._next_between() for _ in range(3))
        result = output.data
        self._launch("route_scores", (experts, t), x.data, weight.data, affinity, d)
        self._launch(
            "route_choose",
            (t,),
            *(affinity, bias.data, choice, group_scores, result, experts),
            *(attributes["top_k"], n_group, attributes.get("topk_group", 1)),
            *(int(scoring == "softmax"), GROUP_BEST[scoring]),
            int(attributes.get("normalize", True)),
            *(real.type(attributes.get("scale", 1.0)), real.type(SMALLEST_SUM)),
        )
        return result

    def _add_rows(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        x, rows, ids, shares = inputs
        numbers = self._get(ids)
        distinct = len(set(numbers.tolist())) == numbers.size
        if numbers.size and not (0 <= numbers.min() <= numbers.max() < x.shape[0] and distinct):
            raise ShapeError(
                f"ids must be distinct and from 0 to {x.shape[0] - 1}, not {numbers.tolist()}"
            )
        result = output.data
        self._copy(x.data, result, output.nbytes)
        n, d = rows.shape
        self._launch("add_rows", (d, n), rows.data, ids.data, shares.data, result, d)
        return result
