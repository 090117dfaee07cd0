"""The loop nest that all units of the GEMM engine walk: tiles of M, blocks of N, tiles of K."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out

from ciuic.abi import OverlayConfig

from .job import job_layout

__all__ = ["RowWalk", "TileWalk"]


class TileWalk(Component):
    """Where a unit is in its job.

    The outermost loop is over tiles of M, then blocks of N, then (``along_k``) tiles of K.

    Parameters
    ----------
    config
        The overlay's configuration.
    along_k
        Whether the unit looks at single tiles of K.

    Members
    -------
    start, job : In(1), In(job_layout)
        Begin a job; ``current`` holds it from the next cycle on.
    step : In(1)
        Go on to the next place.
    current : Out(job_layout)
        The job.
    rows : Out
        Rows of the tile of M.
    columns : Out
        Columns of the block of N.
    first_n, last_n, first_k, last_k, last : Out(1)
        Place in the loops; ``last`` is the last place of the job.
    k : Out
        Number of the tile of K.
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
                "first_n": Out(1),
                "last_n": Out(1),
                "first_k": Out(1),
                "last_k": Out(1),
                "last": Out(1),
                "k": Out(job["k_blocks"].shape),
            }
        )

    def elaborate(self, platform):
        m = Module()
        job = self.current
        rows_left = Signal(job.m.shape())
        columns_left = Signal(job.n.shape())
        m.d.comb += [
            self.rows.eq(Mux(rows_left < job.tile_m, rows_left, job.tile_m)),
            self.columns.eq(Mux(columns_left < self.config.cols, columns_left, self.config.cols)),
            self.last_n.eq(columns_left <= self.config.cols),
            self.first_k.eq(self.k == 0),
            self.last_k.eq(self.k + 1 == job.k_blocks if self.along_k else 1),
            self.last.eq(self.last_k & self.last_n & (rows_left <= job.tile_m)),
        ]
        with m.If(self.step):
            with m.If(~self.last_k):
                m.d.sync += self.k.eq(self.k + 1)
            with m.Else():
                m.d.sync += [
                    self.k.eq(0),
                    self.first_n.eq(0),
                    columns_left.eq(columns_left - self.config.cols),
                ]
                with m.If(self.last_n):
                    m.d.sync += [
                        self.first_n.eq(1),
                        columns_left.eq(job.n),
                        rows_left.eq(rows_left - job.tile_m),
                    ]
        with m.If(self.start):
            m.d.sync += [
                job.eq(self.job),
                rows_left.eq(self.job.m),
                columns_left.eq(self.job.n),
                self.first_n.eq(1),
                self.k.eq(0),
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
        Go on to the next row.
    addr : Out
        Where the row's part within the block of columns lies.
    nbytes : Out
        Its bytes: INT8 with ``requantize``, else INT32.
    columns, last_n : Out
        As in `TileWalk`.
    first_row, last_row, last : Out(1)
        Place in the block; last row of the job.
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
                "current": Out(job),
                "addr": Out(config.address_bits),
                "nbytes": Out(range(config.cols * 4 + 1)),
                "columns": Out(range(config.cols + 1)),
                "last_n": Out(1),
                "first_row": Out(1),
                "last_row": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = TileWalk(config, along_k=False)
        job = walk.current
        stride = getattr(job, self.stride)
        row = Signal(range(config.accumulator_rows))
        block_addr, tile_addr = Signal(config.address_bits), Signal(config.address_bits)
        block_bytes = Signal(range(config.cols * 4 + 1))
        next_row, next_block = Signal(config.address_bits), Signal(config.address_bits)
        next_tile = Signal(config.address_bits)
        m.d.comb += [
            walk.start.eq(self.start),
            walk.job.eq(self.job),
            walk.step.eq(self.step & self.last_row),
            self.current.eq(job),
            self.columns.eq(walk.columns),
            self.nbytes.eq(Mux(job.requantize, walk.columns, walk.columns << 2)),
            self.last_n.eq(walk.last_n),
            self.first_row.eq(row == 0),
            self.last_row.eq(row + 1 == walk.rows),
            self.last.eq(self.last_row & walk.last),
            block_bytes.eq(Mux(job.requantize, config.cols, config.cols * 4)),
            next_row.eq(self.addr + stride),
            next_block.eq(block_addr + block_bytes),
            next_tile.eq(next_row - (block_addr - tile_addr)),
        ]
        with m.If(self.step):
            m.d.sync += [self.addr.eq(next_row), row.eq(row + 1)]
            with m.If(self.last_row):
                m.d.sync += [row.eq(0), self.addr.eq(next_block), block_addr.eq(next_block)]
                with m.If(walk.last_n):
                    m.d.sync += [
                        self.addr.eq(next_tile),
                        block_addr.eq(next_tile),
                        tile_addr.eq(next_tile),
                    ]
        with m.If(self.start):
            base = getattr(self.job, self.address)
            m.d.sync += [
                self.addr.eq(base),
                block_addr.eq(base),
                tile_addr.eq(base),
                row.eq(0),
            ]
        return m
