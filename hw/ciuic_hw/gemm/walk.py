"""The loop nest that all units of the GEMM engine walk: tiles of M, blocks of N, tiles of K."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

from ..arithmetic import less
from ..streams import delay
from .job import job_layout, result_lanes

__all__ = ["RowWalk", "TileWalk"]


class TileWalk(Component):
    """Where a unit is in its job.

    The outermost loop is over tiles of M, then blocks of N, then (``along_k``) tiles of K.

    Parameters
    ----------
    config
        The overlay's configuration.
    along_k
        Whether the unit looks at single tiles of K. It may step in every cycle along K, and see the
        next place at once; but it must leave out a cycle after ``last_k`` before the next, and two
        before it looks at ``rows``. Other units step at most in every third, and see the next place
        two cycles later.

    Members
    -------
    start, job : In(1), In(job_layout)
        Begin a job; ``job`` must stay for a cycle. ``current`` holds it, and the members below hold
        for its first place, from the second cycle behind ``start`` on.
    step : In(1)
        Go on to the next place.
    current : Out(job_layout)
        The job.
    rows : Out
        Rows of the tile of M.
    columns : Out
        Columns of the block of N.
    last_m, last_n, first_k, last_k, last : Out(1)
        Place in the loops; ``last`` is the last place of the job. They are found out a step ahead,
        so that a unit can decide in the cycle in which it uses them; all but ``first_k`` and
        ``last_k`` still hold in the cycle behind a step.
    """

    def __init__(self, config: OverlayConfig, *, along_k: bool):
        self.config = config
        self.along_k = along_k
        job = job_layout(config)
        super().__init__(
            {
                "start": In(1),
                "job": In(job),
                "step": In(1),
                "current": Out(job),
                "rows": Out(range(config.accumulator_rows + 1)),
                "columns": Out(range(config.cols + 1)),
                "last_n": Out(1),
                "first_k": Out(1),
                "last_k": Out(1),
                "last_m": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        job = Signal(job_layout(self.config), reset_less=True)
        cols = self.config.cols
        rows_left = Signal(job.m.shape(), reset_less=True)
        blocks_left = Signal(job.n_blocks.shape(), reset_less=True)
        tiles_left = Signal(job.k_blocks.shape(), reset_less=True)
        then_last = Signal()  # behind this tile of M
        # Behind this block of columns.
        then_last_n, then_left = Signal(), Signal.like(blocks_left, reset_less=True)
        rest_rows = Signal.like(rows_left, reset_less=True)
        start = delay(m, self.start, 1)  # it has many registers to reach
        outer = delay(m, self.step & self.last_k, 1)  # the next block of columns
        rest = job.n[: exact_log2(cols)]  # columns of the last block, zero if it is full
        m.d.comb += [
            self.current.eq(job),
            self.columns.eq(Mux(self.last_n & rest.any(), rest, cols)),
            self.last.eq(self.last_k & self.last_n & self.last_m),
        ]
        if not self.along_k:
            m.d.comb += [self.first_k.eq(1), self.last_k.eq(1)]
        m.d.sync += [
            then_last.eq(~less(job.tile_m << 1, rows_left)),
            rest_rows.eq(rows_left - job.tile_m),
            then_last_n.eq(Mux(self.last_n, job.one_n, blocks_left == 2)),
            then_left.eq(Mux(self.last_n, job.n_blocks, blocks_left - 1)),
        ]
        if self.along_k:
            # `step` comes late, so tiles are counted a cycle behind it.
            stepped, turned = delay(m, self.step, 1), delay(m, self.last_k, 1)
            near = Signal(2)  # two are left; three are
            then_last_k = Mux(stepped, near[1], near[0])
            with m.If(self.step):
                m.d.sync += [
                    self.first_k.eq(self.last_k),
                    self.last_k.eq(Mux(self.last_k, job.one_k, then_last_k)),
                ]
            with m.If(stepped):
                m.d.sync += [
                    tiles_left.eq(Mux(turned, job.k_blocks, tiles_left - 1)),
                    near.eq(Mux(turned, job.near_k, Cat(near[1], tiles_left == 4))),
                ]
        with m.If(outer):
            m.d.sync += [self.last_n.eq(then_last_n), blocks_left.eq(then_left)]
            with m.If(self.last_n):
                m.d.sync += [
                    self.last_m.eq(then_last),
                    rows_left.eq(rest_rows),
                    self.rows.eq(Mux(then_last, rest_rows[: len(self.rows)], job.tile_m)),
                ]
        with m.If(start):
            m.d.sync += [
                job.eq(self.job),
                rows_left.eq(self.job.m),
                blocks_left.eq(self.job.n_blocks),
                self.last_m.eq(self.job.one_m),
                self.last_n.eq(self.job.one_n),
                self.rows.eq(Mux(self.job.one_m, self.job.m, self.job.tile_m)),
            ]
            if self.along_k:
                m.d.sync += [
                    tiles_left.eq(self.job.k_blocks),
                    near.eq(self.job.near_k),
                    self.first_k.eq(1),
                    self.last_k.eq(self.job.one_k),
                ]
        return m


class RowWalk(Component):
    """Walk the rows of a matrix of the shape of the result, block by block as the array makes it.

    Parameters
    ----------
    config
        The overlay's configuration.
    address, stride
        Names of the job's fields that say where the matrix lies.

    Members
    -------
    start, job, current
        As in `TileWalk`.
    step : In(1)
        Go on to the next row; only while ``ready``.
    ready : Out(1)
        The members below hold for the row; low for two cycles behind ``start`` and ``step``.
    addr : Out
        Where the row's part within the block of columns lies.
    nbytes : Out
        Its bytes: INT8 with ``requantize``, else INT32.
    steps : Out
        Steps of `result_lanes` columns that the row takes.
    last_row, last : Out(1)
        Last row of the block; last row of the job.
    """

    def __init__(self, config: OverlayConfig, *, address: str, stride: str):
        self.config = config
        self.address = address
        self.stride = stride
        job = job_layout(config)
        super().__init__(
            {
                "start": In(1),
                "job": In(job),
                "step": In(1),
                "ready": Out(1),
                "current": Out(job),
                "addr": Out(config.address_bits),
                "nbytes": Out(range(config.cols * 4 + 1)),
                "steps": Out(range(config.cols // result_lanes(config) + 1)),
                "last_row": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = TileWalk(config, along_k=False)
        job = walk.current
        lanes = result_lanes(config)
        stride = getattr(job, self.stride)
        row = Signal(range(1, config.accumulator_rows + 1), init=1)  # from one on
        stepped = delay(m, self.step, 1)  # what holds of the row still does
        tile_addr, row_addr, offset, next_row, next_offset = (
            Signal(config.address_bits, name=name, reset_less=True)
            for name in ("tile_addr", "row_addr", "offset", "next_row", "next_offset")
        )  # offsets are those of blocks in a row
        settling = Signal()
        block_bytes = Signal(range(config.cols * 4 + 1))
        m.d.comb += [
            walk.start.eq(self.start),
            walk.job.eq(self.job),
            walk.step.eq(self.step & self.last_row),
            self.current.eq(job),
        ]
        m.d.sync += [
            settling.eq(self.step | self.start),
            self.ready.eq(~(self.step | self.start | settling)),
            self.steps.eq((walk.columns + (lanes - 1)) >> exact_log2(lanes)),
            self.nbytes.eq(Mux(job.requantize, walk.columns, walk.columns << 2)),
            self.last_row.eq(row == walk.rows),
            self.last.eq((row == walk.rows) & walk.last),
            self.addr.eq(row_addr + offset),
            next_row.eq(row_addr + stride),
            block_bytes.eq(Mux(job.requantize, config.cols, config.cols * 4)),
            next_offset.eq(offset + block_bytes),
        ]
        with m.If(stepped):
            m.d.sync += [row_addr.eq(next_row), row.eq(row + 1)]
            with m.If(self.last_row):
                m.d.sync += [row.eq(1), row_addr.eq(tile_addr), offset.eq(next_offset)]
                with m.If(walk.last_n):
                    m.d.sync += [row_addr.eq(next_row), tile_addr.eq(next_row), offset.eq(0)]
        with m.If(self.start):
            base = getattr(self.job, self.address)
            m.d.sync += [row_addr.eq(base), tile_addr.eq(base), offset.eq(0), row.eq(1)]
        return m
