"""The overlay as numpy sees it: matrices in, matrices out.

    with ciuic_host.open("fpga:rtl?config=tiny") as overlay:
        products = overlay.gemm(activations, weights)

One `Overlay` is used from one thread, but for `Overlay.fill_slot`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.abi import DESCRIPTOR, Format, Opcode, registers
from ciuic.abi.numerics import SoftmaxScale
from ciuic.errors import DeviceError, ShapeError, TransferError, UsageError
from ciuic.reference import ColumnParameters, pack_weights, pack_weights_w4, packed_nbytes

from . import attention
from .attention import Attention, CacheHandle, Role
from .completion import Completion
from .gemm import Gemm, Packed, WeightHandle, check_matrix, stage
from .identity import identify
from .memory_timing import MemoryTiming
from .rings import Rings, Ticket
from .softmax import RESULT_DTYPES, Softmax
from .staging import Staging, round_up
from .timeline import Timeline
from .transport import PAGE_BYTES, Buffer, Transport
from .uri import Report, no_report, open_transport

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
COMPLETIONS_KEPT = 1024


class Overlay:
    """One overlay behind a transport, identified, reset and ready.

    Parameters
    ----------
    transport
        How the overlay is reached; closed with the overlay.
    timeout
        Seconds without any progress of the overlay after which a wait gives up.

    Attributes
    ----------
    config
        What the overlay is built with.
    completions
        The latest completion records, oldest first.
    timeline
        The same as time.

    Raises
    ------
    OverlayMismatch
        If the overlay is not one that this package can drive.
    """

    def __init__(self, transport: Transport, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._transport = transport
        self.timeout = timeout
        self.config = identify(transport)
        if transport.clock_hz is not None:
            self.config = replace(self.config, clock_hz=transport.clock_hz)
        self.completions: deque[Completion] = deque(maxlen=COMPLETIONS_KEPT)
        self.timeline = Timeline(self.config.clock_hz)
        self._rings = Rings(transport)
        self._staging = Staging(transport, self.config.alignment)
        self._handles: set[WeightHandle | CacheHandle] = set()
        self._slots: list[Buffer] = []
        self._closed = False
        logger.info("%s: overlay %s", transport.name, self.config.name)

    @property
    def name(self) -> str:
        """The device's name, as `open` takes it."""
        return self._transport.name

    @property
    def emulated(self) -> bool:
        """Whether no FPGA is behind it."""
        return self._transport.emulated

    @property
    def memory_bytes(self) -> int:
        """Bytes of the device's memory."""
        return self._transport.memory_bytes

    @property
    def timing(self) -> MemoryTiming:
        """How fast its memory is; the usual figures where the transport does not say."""
        return self._transport.timing or MemoryTiming()

    @property
    def link_bytes_per_second(self) -> float:
        """How fast bytes come to its memory; its bus's rate where the transport does not say."""
        bus = self.config.bus_bytes * self.config.clock_hz
        return self._transport.link_bytes_per_second or bus

    # --- operations ---------------------------------------------------------------------------

    def gemm(
        self,
        activations: npt.NDArray[np.int8],
        weights: npt.NDArray[np.int8] | WeightHandle,
        *,
        parameters: ColumnParameters | None = None,
        residual: npt.NDArray[np.int8 | np.int32] | None = None,
        requantize: bool = False,
    ) -> npt.NDArray[Any]:
        """Return activations (m, k) @ weights (k, n), what is asked for added, as INT32 (m, n).

        Parameters
        ----------
        activations
            INT8 (m, k).
        weights
            INT8 (k, n), or what `load_weights` or `load_weights_w4` returned, which saves packing
            and copying them.
        parameters
            Bias, and factors for ``requantize``.
        residual
            (m, n), of the results' type, added at the end.
        requantize
            Whether results are multiplied with the columns' factors and rounded to INT8.
        """
        if not isinstance(weights, WeightHandle):
            check_matrix("activations", activations, ("int8",))
            weights = self.load_weights(weights)
            try:
                return self.gemm(
                    activations,
                    weights,
                    parameters=parameters,
                    residual=residual,
                    requantize=requantize,
                )
            finally:
                self.free(weights)
        call = Gemm(
            activations=activations,
            weights=weights,
            parameters=parameters,
            residual=residual,
            requantize=requantize,
        )
        return self.gemms([call])[0]

    def gemms(self, calls: Sequence[Gemm]) -> list[npt.NDArray[Any]]:
        """Return the results of several products that do not depend on one another.

        All are started together, so that the overlay loads the operands of one while it computes
        another.
        """
        for call in calls:
            self._check_handle(call.weights)
            call.check(self.config)
        staged = stage(list(calls), self._staging)
        self.wait(self.submit([product.descriptor for product in staged]))
        return [product.get() for product in staged]

    def softmax(
        self,
        scores: npt.NDArray[np.int8 | np.int16 | np.int32],
        *,
        scale: float | SoftmaxScale = 1.0,
        causal: bool = False,
        row_offset: int = 0,
        lengths: npt.ArrayLike | None = None,
        out: Format = Format.Q0_16,
    ) -> npt.NDArray[np.uint16 | np.uint8]:
        """Return softmax(scale * scores) along the rows, as unsigned fractions.

        Parameters
        ----------
        scores
            INT8, INT16 or INT32 (rows, cols), at most ``config.max_row`` columns.
        scale
            What multiplies the scores before exp; above 0.
        causal
            Whether row i sees its first ``row_offset + i + 1`` elements only; the others give 0.
        row_offset
            Elements before the first row's own.
        lengths
            Elements that each row (rows,) sees at most, 0 to cols; a row that sees none is zeros.
        out
            ``Format.Q0_16`` (uint16, units of 2**-16) or ``Format.Q0_8`` (uint8, units of 2**-8).
        """
        call = Softmax(
            scores=scores,
            scale=scale,
            causal=causal,
            row_offset=row_offset,
            lengths=lengths,
            out=out,
        )
        call.check(self.config)
        descriptor, result = call.stage(self._staging)
        self._finish(descriptor)
        return result.get(RESULT_DTYPES[out])

    def attentions(self, calls: Sequence[Attention]) -> list[npt.NDArray[np.int16]]:
        """Return softmax(scale * queries @ keys.T) @ values of several heads, started together.

        Results are (m, width of the values), in units of 2**-`numerics.ATTENTION_FRACTION` values.
        Their error is bounded in `ciuic.reference.attention`.
        """
        if not self.config.attention:
            raise UsageError(f"overlay {self.config.name!r} must have an attention engine")
        for call in calls:
            self._check_handle(call.keys)
            self._check_handle(call.values)
            call.check(self.config)
        staged = attention.stage(calls, self.config, self._staging)
        self.wait(self.submit([part.descriptor for parts in staged for part in parts]))
        return [np.concatenate([part.result.get(np.int16) for part in parts]) for parts in staged]

    def copy(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a copy of an array that went through the overlay."""
        if array.size == 0:
            raise ShapeError(f"array must not be empty, but its shape is {array.shape}")
        nbytes = array.nbytes
        source, target = self._staging.matrices((1, nbytes), (1, nbytes))
        source.put(np.ascontiguousarray(array).view(np.uint8).reshape(1, nbytes))
        descriptor = {"a_addr": source.address, "o_addr": target.address, "n": nbytes}
        self._finish(DESCRIPTOR.pack(opcode=Opcode.COPY, **descriptor))
        return target.get(array.dtype).reshape(array.shape)

    def count_staging(self, claim: Callable[[int], None]) -> None:
        """Have ``claim`` called with the bytes that the buffer of operands and results is to have.

        Each time before it grows; the call that needs it fails if ``claim`` does.
        """
        self._staging.claim = claim

    def release_staging(self) -> None:
        """Give that buffer back until a call needs it again."""
        self._staging.close()

    # --- weights ------------------------------------------------------------------------------

    def load_weights(self, weights: npt.NDArray[np.int8]) -> WeightHandle:
        """Pack weights (k, n) for the array and keep them in the device's memory."""
        check_matrix("weights", weights, ("int8",))
        return self._load(weights, lambda: self.pack(weights), w4=False)

    def load_weights_w4(
        self, weights: npt.NDArray[np.int8], scales: npt.NDArray[np.int16]
    ) -> WeightHandle:
        """Pack INT4 weights, values from -8 to 7 of shape (k, n), and keep them on the device.

        Products with them are those of `ciuic.reference.gemm_w4`.

        Parameters
        ----------
        weights
            INT8 (k, n), values from -8 to 7.
        scales
            INT16 (groups, n), one for each column and group of `numerics.W4_GROUP` rows.
        """
        check_matrix("weights", weights, ("int8",))
        return self._load(weights, lambda: self.pack(weights, scales), w4=True)

    def _load(
        self, weights: npt.NDArray[np.int8], pack: Callable[[], Packed], *, w4: bool
    ) -> WeightHandle:
        # Allocated first, so that what does not fit is not packed.
        k, n = weights.shape
        buffer = self._transport.allocate(packed_nbytes(k, n, self.config, w4=w4))
        try:
            return self._put(pack(), buffer, slot=False)
        except BaseException:
            self._transport.free(buffer)
            raise

    def pack(
        self, weights: npt.NDArray[np.int8], scales: npt.NDArray[np.int16] | None = None
    ) -> Packed:
        """Return weights (k, n) as the array takes them; with ``scales``, as `load_weights_w4`."""
        check_matrix("weights", weights, ("int8",))
        if scales is None:
            stripes = pack_weights(weights, self.config)
        else:
            stripes = pack_weights_w4(weights, scales, self.config)
        k, n = weights.shape
        return Packed(k, n, stripes, scales is not None)

    def open_slot(self, nbytes: int) -> Buffer:
        """Return memory of the device that weights pass through, see `fill_slot`."""
        buffer = self._transport.allocate(nbytes)
        self._slots.append(buffer)
        return buffer

    def fill_slot(self, slot: Buffer, packed: Packed) -> WeightHandle:
        """Put weights into a slot; those before must have been freed.

        May be called by a thread of its own, while another does all the rest.
        """
        if packed.stripes.nbytes > slot.nbytes:
            raise TransferError(
                f"weights must have at most the {slot.nbytes:,} bytes of a slot of {self.name}, "
                f"not {packed.stripes.nbytes:,}"
            )
        return self._put(packed, slot, slot=True)

    def close_slot(self, slot: Buffer) -> None:
        """Give the memory of a slot back."""
        self._handles -= {handle for handle in self._handles if handle.buffer is slot}
        self._slots.remove(slot)
        self._transport.free(slot)

    def _put(self, packed: Packed, buffer: Buffer, *, slot: bool) -> WeightHandle:
        buffer.array[: packed.stripes.nbytes] = packed.stripes.reshape(-1)
        self._transport.flush(buffer, 0, packed.stripes.nbytes)
        stripe_bytes = packed.stripes.shape[1]
        handle = WeightHandle(packed.k, packed.n, buffer, stripe_bytes, packed.w4, slot)
        self._handles.add(handle)
        return handle

    def weight_bytes(self, k: int, n: int, *, w4: bool = False) -> int:
        """Return the bytes of the device's memory that weights (k, n) take: whole pages."""
        return round_up(packed_nbytes(k, n, self.config, w4=w4), PAGE_BYTES)

    def new_cache(self, role: Role, *, heads: int, width: int, slots: int) -> CacheHandle:
        """Return room for the keys or values of heads: ``slots`` rows of ``width`` elements each.

        It holds zeros; `write_cache` fills it.
        """
        sizes = {"heads": heads, "width": width, "slots": slots}
        for name, size in sizes.items():
            if size < 1:
                raise ShapeError(f"{name} of a cache must be at least 1, not {size!r}")
        nbytes = attention.head_nbytes(self.config, width, slots)
        buffer = self._transport.allocate(heads * nbytes)
        handle = CacheHandle(role, heads, width, slots, buffer, nbytes // self.config.ports)
        self._transport.flush(buffer)
        self._handles.add(handle)
        return handle

    def write_cache(self, handle: CacheHandle, start: int, rows: npt.NDArray[np.int8]) -> None:
        """Write keys or values (n, heads, width) from row ``start`` on, a multiple of ``cols``.

        Rows up to the next multiple become zero, others stay.
        """
        self._check_handle(handle)
        attention.write_rows(self._transport, self.config, handle, start, rows)

    def free(self, handle: WeightHandle | CacheHandle) -> None:
        """Give the memory of weights or of a cache back; a slot's remains the slot's."""
        self._check_handle(handle)
        self._handles.remove(handle)
        if not handle.slot:
            self._transport.free(handle.buffer)

    # --- descriptors --------------------------------------------------------------------------

    def submit(self, descriptors: Sequence[bytes]) -> Ticket:
        """Start packed descriptors (`ciuic.abi.DESCRIPTOR`), in order."""
        return self._rings.submit(descriptors, self.timeout)

    def wait(self, ticket: Ticket, seconds: float | None = None) -> list[Completion]:
        """Return the completion records of a ticket, once.

        Raises
        ------
        DescriptorError
            If one of them failed; the overlay has been reset and can be used again.
        DeviceTimeout
            If the overlay makes no progress for ``seconds`` (`timeout` if omitted).
        """
        records = self._rings.wait(ticket, self.timeout if seconds is None else seconds)
        self.completions.extend(records)
        self.timeline.add(ticket.rung, records)
        return records

    def counters(self) -> dict[str, int]:
        """Return the overlay's counters, which count since its last reset."""
        return {name: self._counter(name) for name in registers.COUNTERS}

    @property
    def late_seconds(self) -> float:
        """By how much a paced emulation was slower than the board so far; 0 elsewhere."""
        return self._transport.late_seconds

    def build_hash(self) -> int:
        """Return the first 32 bits of the hash over the gateware's sources."""
        return self._transport.read(registers.BUILD_HASH.offset)

    def reset(self) -> None:
        """Reset the overlay; descriptors in flight are given up, loaded weights stay."""
        self._rings.reset()

    def close(self) -> None:
        """Stop the overlay and release everything; a second call does nothing.

        An overlay that does not answer any more is only said to be so, in the log: whatever went
        wrong before is what matters.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._rings.close()
        except DeviceError as error:
            logger.warning("%s could not be stopped: %s", self.name, error)
        finally:
            self._release()

    def _release(self) -> None:
        """Give all memory back; a transport does that though its device fails."""
        try:
            self._staging.close()
            for buffer in (*self._slots, *(h.buffer for h in self._handles if not h.slot)):
                self._transport.free(buffer)
        finally:
            self._transport.close()
            self._handles.clear()
            self._slots.clear()

    def __enter__(self) -> Overlay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _finish(self, descriptor: bytes) -> None:
        self.wait(self.submit([descriptor]))

    def _counter(self, name: str) -> int:
        low, high = registers.counter(name)  # reading the low half latches the high one
        value = self._transport.read(low.offset)
        return value | self._transport.read(high.offset) << 32

    def _check_handle(self, handle: WeightHandle | CacheHandle) -> None:
        if handle in self._handles:
            return
        if isinstance(handle, WeightHandle):
            what = f"weights ({handle.k}, {handle.n})"
        else:
            what = f"{handle.role} ({handle.slots}, {handle.heads}, {handle.width})"
        raise TransferError(f"{what} must be loaded on {self.name} and not freed")


def open(uri: str, *, timeout: float = TIMEOUT_SECONDS, report: Report = no_report) -> Overlay:
    """Open an overlay by name, such as ``fpga:emulated`` or ``fpga:rtl?config=tiny``.

    Parameters
    ----------
    uri
        The device's name.
    timeout
        Seconds without any progress of the overlay after which a wait gives up.
    report
        Called with (what, steps done, steps in all) if it takes long, such as the first time that
        RTL is compiled.

    Raises
    ------
    DeviceNotFound
        If there is no such device here.
    UsageError
        If the name or one of its options cannot be read.
    OverlayMismatch
        If the overlay is not one that this package can drive.
    """
    if not timeout > 0:
        raise UsageError(f"timeout must be above 0 seconds, not {timeout!r}")
    transport = open_transport(uri, report)
    try:
        return Overlay(transport, timeout=timeout)
    except BaseException:
        transport.close()
        raise
