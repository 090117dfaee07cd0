"""The cases of ``ciuic bench offload`` whose weights lie on disk: the CPU, and what it is up to."""

from __future__ import annotations

import mmap
import queue
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ciuic.devices import DeviceManager
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.disk import drop_cached, memory_for
from ciuic.memory.pieces import pieces_of
from ciuic.models.converted import WEIGHTS, named_parts
from ciuic.models.model import Model
from ciuic.models.plan_report import DeviceResidency
from ciuic.models.resident import resident
from ciuic.models.weight_file import WeightFile
from ciuic.quantize import QuantizedMatrix
from ciuic.runtime import Runtime

from . import output
from .bench_offload import PROMPT, Row, residency_of, row_of, seconds_per_token
from .offload_accelerate import Offloaded, is_here
from .offload_model import Copies, loaded, write_source, write_weights

BEFORE = 2  # passes over the weights in `seconds_per_token` that are not timed


def disk_rows(
    folder: str | None,
    *,
    nbytes: int,
    caps: Sequence[float],
    tokens: int,
    rounds: int,
    report: output.Report,
) -> list[Row]:
    """Return the rows of a model of about ``nbytes`` bytes.

    Parameters
    ----------
    folder
        Where to write it; that for temporary files if None.
    caps
        Of the bytes of its weights.
    tokens, rounds
        Tokens a round, and of how many rounds medians are taken.
    report
        Told how far it is.
    """
    with tempfile.TemporaryDirectory(prefix="ciuic-offload-", dir=folder) as name:
        path = Path(name)
        with DeviceManager() as manager:
            runtime = Runtime(manager)
            source = write_source(path, nbytes)
            write_weights(path, source, runtime, report)
            files = WeightFile(path / WEIGHTS), Copies(path / WEIGHTS)
            with (
                loaded(source, files[0], runtime) as model,
                loaded(source, files[1], runtime) as in_memory,
            ):
                bench = _Bench(model, in_memory, files, tokens, rounds)
                return bench.rows(caps, path, report)


class _Bench:
    """Measures in rounds. Everything has its turn in each: drift of a shared machine meets all."""

    def __init__(
        self,
        model: Model,
        in_memory: Model,
        files: Sequence[WeightFile],
        tokens: int,
        rounds: int,
    ) -> None:
        host = model.runtime.device("cpu")
        assert isinstance(host, CpuDevice)
        self._model, self._in_memory, self._files, self._host = model, in_memory, files, host
        self._tokens, self._rounds = tokens, rounds
        self._weights = [*(layer.weights for layer in model.layers), model.network.head]

    def rows(self, caps: Sequence[float], folder: Path, report: output.Report) -> list[Row]:
        """Return the rows of all caps; ``folder`` takes copies of the weights."""
        whole = sum(self._host.weight_bytes(one) for part in self._weights for _, one in part)
        steps = len(caps) * self._rounds
        self._in_memory.load()
        seconds_per_token(self._in_memory, self._tokens)  # so that a token is recorded
        rows: list[Row] = []
        for done, cap in enumerate(caps):
            allowed = int(cap * whole)
            self._evict()
            found = residency_of(self._model, self._host, allowed, self._tokens, on_disk=True)
            with tempfile.TemporaryDirectory(dir=folder) as name:
                other = Offloaded(self._model, allowed, Path(name)) if is_here() else None
                rounds = list[dict[str, Row]]()
                for turn in range(self._rounds):
                    report("disk", done * self._rounds + turn, steps)
                    rounds.append(self._round(cap, found, other))
            rows += [_middle([one[what] for one in rounds]) for what in rounds[0]]
        report("disk", steps, steps)
        return rows

    def _round(self, cap: float, found: DeviceResidency, other: Offloaded | None) -> dict[str, Row]:
        computing = seconds_per_token(self._in_memory, self._tokens)
        self._forget()
        with resident(self._model, [found]):
            ours = seconds_per_token(self._model, self._tokens)
            moving = _reading(self._model, self._host, found, self._tokens)
        self._evict()
        self._forget()
        self._model.load()
        seconds = {"disk": ours, "mmap loop": statistics.median(self._mapped())}
        self._evict()
        if other is not None:
            other.token_seconds()
            seconds["accelerate"] = other.token_seconds()
        return {what: row_of(what, cap, one, computing, moving) for what, one in seconds.items()}

    def _forget(self) -> None:
        """Let the file be in no memory."""
        for file in self._files:
            file.release_pages()  # what is mapped cannot be dropped
        drop_cached(self._files[0].path)

    def _evict(self) -> None:
        for weights in self._weights:
            for _, weight in weights:
                self._host.evict(weight)
        self._host.synchronize()

    def _mapped(self) -> list[float]:
        """Return the seconds of tokens, before each of which the file is in no memory."""
        cache = self._model.new_cache()
        self._model.prefill(PROMPT, cache)
        self._model.decode(PROMPT[0], cache)
        seconds = []
        for _ in range(self._tokens):
            self._forget()
            start = time.perf_counter()
            self._model.decode(PROMPT[0], cache)
            seconds.append(time.perf_counter() - start)
        return seconds


def _middle(rounds: Sequence[Row]) -> Row:
    """Return the round of the median efficiency: its times belong together."""
    return sorted(rounds, key=lambda row: row.efficiency)[len(rounds) // 2]


def _reading(model: Model, host: CpuDevice, found: DeviceResidency, tokens: int) -> float:
    """Return the seconds of reading what streams for a token, and doing nothing else.

    It goes through as much memory as the slots are, one after another: fewer would stay in the
    processor's cache, which the weights of a token do not. As much is read before and meanwhile as
    by `seconds_per_token`: disks that are shared are fast for a while and slower afterwards.
    """
    streamed = set(found.streamed)
    extents: list[tuple[Path, int, int]] = []
    for prefix, part in named_parts(model.network):
        for role, weight in part:
            for piece in pieces_of(prefix + role, weight, host):
                if piece.name in streamed:
                    assert isinstance(weight, QuantizedMatrix)
                    assert weight.extent is not None
                    k = weight.shape[0]
                    start = weight.extent.start + k * piece.start
                    extents.append((weight.extent.path, start, k * (piece.stop - piece.start)))
    free = queue.SimpleQueue[mmap.mmap]()
    for _ in range(found.slots):
        free.put(memory_for(found.slot_bytes))

    def read(extent: tuple[Path, int, int]) -> None:
        path, start, nbytes = extent
        memory = free.get()
        host.reader(path).read(start, nbytes, memory)
        free.put(memory)

    with ThreadPoolExecutor(host.copy_lanes) as lanes:
        for _ in lanes.map(read, BEFORE * extents):
            pass
        began = time.perf_counter()
        for _ in lanes.map(read, tokens * extents):
            pass
        return (time.perf_counter() - began) / tokens
