"""When the GEMM engine reads, computes and writes: its units as recurrences over bursts and tiles.

The first memory port is followed burst by burst: it carries activations and its stripe of weights,
in turn, as far as their queues have room. Tiles then start when their weights are loaded, their
activations are there, the tile before is done and a bank of accumulators is free; a bank is drained
when it is complete. Several jobs follow one another as in the engine, so that the operands of one
are loaded while another computes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from ciuic.abi import DESCRIPTOR, PARAMETERS, OverlayConfig
from ciuic.abi.numerics import W4_GROUP

from .memory_timing import MemoryTiming
from .transport import PAGE_BYTES

SLAB_WORDS = 16  # of activations, of every row at a time
WORDS_AHEAD = 2  # of the one that the array takes must be there
ACTIVATIONS_QUEUE, WEIGHTS_QUEUE, OTHERS_QUEUE = 128, 512, 32  # beats
MAX_BURST = 256  # beats
REQUEST = 6  # cycles between two requests of a port
ROW = 4  # between two rows of results
BURST = 3  # cycles between two bursts of a request
ANSWER = 14  # around the answer to a burst that is written, the memory's own cycles left out
DISPATCH = 16  # from a descriptor to the first address
READ = 11  # from an address to its beat in the engine, the memory's own cycles left out
PLAN = 8  # from the end of a job until the one after the next is taken
DRAIN = 34  # from a full bank to the first beat of results
REPORT = 1  # from the last beat of results to the report, the memory's own cycles left out
LONG = 48  # blocks of columns from which on cycles are extrapolated
UNKNOWN = math.inf


@dataclass(frozen=True)
class Job:
    """What the time of a GEMM depends on."""

    m: int
    k: int
    n: int
    w4: bool = False
    parameters: bool = False
    residual: bool = False
    requantize: bool = False


@dataclass(frozen=True)
class Span:
    """Cycles since the first descriptor was there: when a job was started and when it ended."""

    started: int
    finished: int


@dataclass(frozen=True)
class Shape:
    """A job in blocks, and what its units move for them. Beats are those of one port."""

    config: OverlayConfig
    job: Job

    @property
    def k_blocks(self) -> int:
        """Tiles along K."""
        return blocks(self.job.k, self.config.rows)

    @property
    def n_blocks(self) -> int:
        """Blocks of columns."""
        return blocks(self.job.n, self.config.cols)

    @property
    def word_bytes(self) -> int:
        """Bytes of a word of the activation scratchpad."""
        return max(self.config.rows, self.config.bus_bytes)

    @property
    def bank_words(self) -> int:
        """Words of a bank of it."""
        return self.config.bank_words * self.config.rows // self.word_bytes

    @property
    def row_words(self) -> int:
        """Words of a row of activations."""
        return blocks(self.job.k, self.word_bytes)

    @property
    def sliced(self) -> bool:
        """Whether a row is longer than a bank, and so is read for each block of columns."""
        return self.row_words > self.bank_words

    @property
    def tile_rows(self) -> int:
        """Rows that a bank takes at a time."""
        rows = 1
        while rows < self.config.accumulator_rows and 2 * rows * self.row_words <= self.bank_words:
            rows *= 2
        return rows

    @property
    def tiles(self) -> list[int]:
        """Rows of each tile of M."""
        whole, rest = divmod(self.job.m, self.tile_rows)
        return [self.tile_rows] * whole + [rest] * (rest > 0)

    def columns(self, block: int) -> int:
        """Return the columns of a block."""
        return min(self.config.cols, self.job.n - block * self.config.cols)

    def row_steps(self, block: int) -> int:
        """Return the cycles in which a row of a block passes the output stage."""
        return blocks(4 * self.columns(block), self.config.bus_bytes)

    def row_beats(self, block: int) -> int:
        """Return the beats of a row of a block's results."""
        nbytes = 1 if self.job.requantize else 4
        return blocks(nbytes * self.columns(block), self.config.bus_bytes)

    def tile_weights(self, k_block: int) -> int:
        """Return the beats of a tile's weights, and of the scales before them, on each port."""
        if not self.job.w4:
            return self.config.tile_beats
        first = k_block * self.config.rows % W4_GROUP == 0
        scales = self.config.scale_bytes // self.config.stream_bytes
        return self.config.tile_beats // 2 + first * scales

    @property
    def block_weights(self) -> int:
        """Beats of a block's weights on each port."""
        return sum(map(self.tile_weights, range(self.k_blocks)))

    def extra_reads(self, block: int, rows: int) -> int:
        """Return the beats of parameters and of the residual for a block."""
        parameters = blocks(self.columns(block) * PARAMETERS.nbytes, self.config.bus_bytes)
        return self.job.parameters * parameters + self.job.residual * rows * self.row_beats(block)


@dataclass(frozen=True)
class Burst:
    """A burst of activations: ``use`` counts fillings of banks, ``chunk`` what comes together."""

    job: int
    beats: int
    use: int
    chunk: int
    ends_chunk: bool


@dataclass(frozen=True)
class Tile:
    """A tile of weights in its turn."""

    job: int
    rows: int
    weights: int  # beats
    chunk: int  # of activations, that must be there
    releases: bool  # the bank that holds them
    block_first: bool
    block_last: bool
    row_steps: int
    row_beats: int
    job_last: bool


def blocks(size: int, block: int) -> int:
    """Return how many blocks cover a size."""
    return -(-size // block)


@lru_cache(maxsize=1024)
def spans(config: OverlayConfig, timing: MemoryTiming, jobs: tuple[Job, ...]) -> list[Span]:
    """Return when each of several jobs that were submitted together starts and ends."""
    if len(jobs) == 1 and blocks(jobs[0].n, config.cols) > LONG:
        # A job is periodic in its blocks of columns.
        short, shorter = (
            _Engine(config, timing, (_shortened(config, jobs[0], count),)).run()[0].finished
            for count in (LONG, LONG - 8)
        )
        rest = blocks(jobs[0].n, config.cols) - LONG
        return [Span(1, short + (short - shorter) * rest // 8)]
    return _Engine(config, timing, jobs).run()


def _shortened(config: OverlayConfig, job: Job, count: int) -> Job:
    edge = job.n - (blocks(job.n, config.cols) - 1) * config.cols
    return replace(job, n=(count - 1) * config.cols + edge)


class _Engine:
    """The recurrences of a list of jobs."""

    def __init__(self, config: OverlayConfig, timing: MemoryTiming, jobs: tuple[Job, ...]) -> None:
        self.config = config
        self.timing = timing
        self.shapes = [Shape(config, job) for job in jobs]
        self.available = [UNKNOWN] * len(jobs)  # from when on requests of a job may be made
        self.finished = [UNKNOWN] * len(jobs)
        fetch = 18 + timing.read_latency + DESCRIPTOR.nbytes // config.bus_bytes * timing.beat
        for job in range(min(2, len(jobs))):
            self.available[job] = DISPATCH + job * fetch
        self.tiles = self._all_tiles()
        self.tile: Tile | None = next(self.tiles, None)

        # The bus.
        self.bus_free = 0.0
        self.last_was_weights = True
        self.others = 0.0  # cycles that parameters and the residual will take
        self.in_flight: list[float] = []  # ends of all bursts
        # Activations: of each burst, beats so far and when they are there; of each chunk, when.
        self.read_beats: list[int] = [0]
        self.read_times: list[float] = [0.0]
        self.read_issued = 0.0
        self.chunks: list[float] = []
        self.released: list[float] = []
        # Weights: of each burst, beats before it and when its first beat is there.
        self.weight_beats: list[int] = []
        self.weight_times: list[float] = []
        self.weights_asked = 0
        self.weights_issued = 0.0
        # Tiles: weights consumed up to each, and when its first and last beat was.
        self.consumed: list[int] = [0]
        self.first: list[float] = [0.0]
        self.last: list[float] = [0.0]
        self.start, self.rows = 0.0, 0
        # Blocks.
        self.bank_free = [0.0, 0.0]
        self.blocks_done = 0
        self.drained = 0.0

    def run(self) -> list[Span]:
        """Return when each job started and ended."""
        reads, weights = self._all_reads(), self._all_weights()
        read, weight = next(reads, None), next(weights, None)
        while True:
            self._advance()
            if read is None and weight is None:
                break
            read_at = self._read_ready(read) if read else UNKNOWN
            weight_at = self._weights_ready(*weight) if weight else UNKNOWN
            if read_at == weight_at:
                take_read = self.last_was_weights
            else:
                take_read = read_at < weight_at
            if take_read and read:
                self._issue_read(read, read_at)
                read = next(reads, None)
            elif weight:
                self._issue_weights(weight[1], weight_at, weight[2])
                weight = next(weights, None)
        started = [1, *(max(1, round(at) - DISPATCH + 1) for at in self.available[1:])]
        return [Span(a, round(b)) for a, b in zip(started, self.finished, strict=True)]

    # --- what is to be done, in order ---------------------------------------------------------

    def _all_reads(self) -> Iterator[Burst]:
        limit, bus = ACTIVATIONS_QUEUE // 2, self.config.bus_bytes
        use = chunk = -1
        for job, shape in enumerate(self.shapes):
            words = shape.bank_words if shape.sliced else SLAB_WORDS
            k, part = shape.job.k, words * shape.word_bytes
            sizes = [min(part, k - start) for start in range(0, k, part)]
            for rows in shape.tiles:
                use += not shape.sliced
                for _ in range(shape.n_blocks if shape.sliced else 1):
                    for size in sizes:
                        use += shape.sliced
                        chunk += 1
                        for row in range(rows):
                            beats = blocks(size, bus)
                            for done in range(0, beats, limit):
                                now = min(limit, beats - done)
                                ends = row == rows - 1 and done + now == beats
                                yield Burst(job, now, use, chunk, ends)

    def _all_weights(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield of bursts of weights the job, the beats, the other beats that come along, a pace.

        That is how many cycles it is behind the last one: a block of columns is a request.
        """
        page = PAGE_BYTES // self.config.bus_bytes
        for job, shape in enumerate(self.shapes):
            beats = shape.block_weights
            for rows in shape.tiles:
                position = 0
                for block in range(shape.n_blocks):
                    extra = shape.extra_reads(block, rows)
                    left, pace = beats, REQUEST
                    while left:
                        # Weights lie at the beginning of a page, which no burst crosses.
                        now = min(MAX_BURST, left, page - position % page)
                        left, position = left - now, position + now
                        yield job, now, 0 if left else extra, pace
                        pace = BURST

    def _all_tiles(self) -> Iterator[Tile]:
        chunk = 0  # first of the tile of rows
        for job, shape in enumerate(self.shapes):
            per_word = shape.word_bytes // self.config.rows
            words = shape.bank_words if shape.sliced else SLAB_WORDS
            count = blocks(shape.row_words, words)
            weights = [shape.tile_weights(k) for k in range(shape.k_blocks)]
            for number, rows in enumerate(shape.tiles):
                for block in range(shape.n_blocks):
                    for k in range(shape.k_blocks):
                        word = k // per_word
                        if not shape.sliced:  # words ahead must be there, too
                            word = min(word + WORDS_AHEAD, shape.row_words - 1)
                        part = word // words
                        last_k = k == shape.k_blocks - 1
                        if shape.sliced:
                            releases = last_k or (k + 1) // per_word // words != part
                        else:
                            releases = last_k and block == shape.n_blocks - 1
                        last = last_k and block == shape.n_blocks - 1
                        yield Tile(
                            job=job,
                            rows=rows,
                            weights=weights[k],
                            chunk=chunk + part,
                            releases=releases,
                            block_first=k == 0,
                            block_last=last_k,
                            row_steps=shape.row_steps(block),
                            row_beats=shape.row_beats(block),
                            job_last=last and number == len(shape.tiles) - 1,
                        )
                    chunk += count * shape.sliced
                chunk += count * (not shape.sliced)

    # --- the bus ------------------------------------------------------------------------------

    def _outstanding(self) -> float:
        """Return when another burst may be in flight."""
        limit = self.config.outstanding
        return self.in_flight[-limit] if len(self.in_flight) >= limit else 0.0

    def _read_ready(self, burst: Burst) -> float:
        room = self.read_beats[-1] + burst.beats - ACTIVATIONS_QUEUE
        free = 0.0
        if room > 0:
            free = self.read_times[bisect_left(self.read_beats, room)]
        if burst.use >= 2:
            released = self.released
            free = max(free, released[burst.use - 2] if burst.use - 2 < len(released) else UNKNOWN)
        return max(self.available[burst.job], self.read_issued + REQUEST, free, self._outstanding())

    def _weights_ready(self, job: int, beats: int, _extra: int, pace: int) -> float:
        room = self.weights_asked + beats - WEIGHTS_QUEUE
        free = 0.0
        if room > 0:
            tile = bisect_left(self.consumed, room)
            if tile == len(self.consumed):
                return UNKNOWN
            inside = (room - self.consumed[tile - 1]) / (
                self.consumed[tile] - self.consumed[tile - 1]
            )
            free = self.first[tile] + inside * (self.last[tile] - self.first[tile])
        return max(self.available[job], self.weights_issued + pace, free, self._outstanding())

    def _carry(self, beats: int, issued: float) -> float:
        """Return when the first beat of a burst is there."""
        begin = max(self.bus_free, issued + READ + self.timing.read_latency)
        self.others = max(0.0, self.others - (begin - self.bus_free))
        self.bus_free = begin + beats * self.timing.beat
        self.in_flight.append(self.bus_free)
        return begin

    def _issue_read(self, burst: Burst, at: float) -> None:
        self._carry(burst.beats, at)
        self.read_beats.append(self.read_beats[-1] + burst.beats)
        self.read_times.append(self.bus_free)
        self.read_issued = at
        if burst.ends_chunk:
            self.chunks.append(self.bus_free + 1)
        self.last_was_weights = False

    def _issue_weights(self, beats: int, at: float, extra: int) -> None:
        self.weight_times.append(self._carry(beats, at))
        self.weight_beats.append(self.weights_asked)
        self.weights_asked += beats
        self.weights_issued = at
        self.last_was_weights = True
        # Other reads take the gaps of the bus, and their turn where there are none.
        turn = min(self.others, OTHERS_QUEUE)
        self.others += extra * self.timing.beat - turn
        self.bus_free += turn

    # --- tiles and blocks ---------------------------------------------------------------------

    def _weight_there(self, beat: int) -> float:
        """Return when a beat of weights is at the head of its queue."""
        burst = bisect_left(self.weight_beats, beat + 1) - 1
        return self.weight_times[burst] + (beat - self.weight_beats[burst]) * self.timing.beat

    def _advance(self) -> None:
        """Let all tiles start whose operands are under way."""
        while self.tile is not None:
            tile = self.tile
            before = self.consumed[-1]
            through = before + tile.weights
            if through > self.weights_asked or tile.chunk >= len(self.chunks):
                return
            first = max(self.start, self.last[-1] + 1, self._weight_there(before))
            last = max(first + tile.weights - 1, self._weight_there(through - 1))
            self.consumed.append(through)
            self.first.append(first)
            self.last.append(last)
            bank = self.blocks_done % 2
            self.start = max(
                last + 1,
                self.start + self.rows,
                self.chunks[tile.chunk],
                self.bank_free[bank] if tile.block_first else 0.0,
            )
            self.rows = tile.rows
            if tile.releases:
                self.released.append(self.start + tile.rows)
            if tile.block_last:
                self._drain(tile)
            self.tile = next(self.tiles, None)

    def _drain(self, tile: Tile) -> None:
        latency = self.config.rows.bit_length() + 13
        full = self.start + tile.rows + latency
        begin = max(full, self.drained)
        # No more rows are on their way than bursts may be.
        answered = (self.timing.write_latency + ANSWER) / self.config.outstanding
        pace = max(tile.row_steps, tile.row_beats * self.timing.beat, ROW, answered)
        self.drained = begin + tile.rows * pace
        self.bank_free[self.blocks_done % 2] = self.drained
        self.blocks_done += 1
        if tile.job_last:
            done = self.drained + DRAIN + self.timing.write_latency + REPORT
            self.finished[tile.job] = done
            self.drained = done + 2
            if tile.job + 2 < len(self.available):
                self.available[tile.job + 2] = done + PLAN
