"""The GEMM engine: four units that follow the same jobs, each with its own loop nest.

    memory ─► ActivationLoader ─► scratchpad ─┐
                                              ├─► Array ─► Accumulators ─► Drain ─► memory
    memory ─► WeightLoader ───────────────────┘
                         ComputeSequencer leads the middle

Units meet only at banks that are full or free, so loading, computing and draining overlap, within
a job and between neighbouring jobs.
"""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, Out, connect, flipped

from ciuic.abi import OverlayConfig

from ..axi.ports import EngineSignature, ReadPort
from .accumulators import Accumulators
from .activations import ActivationLoader, ActivationScratchpad
from .array import Array
from .compute import ComputeSequencer
from .drain import Drain
from .job import JobPlanner
from .weights import WeightLoader

__all__ = ["GemmEngine"]


class GemmEngine(Component):
    """Run GEMM descriptors.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    descriptor, done, active, read, write
        See `EngineSignature`; ``read`` carries activations.
    read_weights : Out(ReadPort)
        Weights.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        members = dict(EngineSignature(config).members)
        super().__init__({**members, "read_weights": Out(ReadPort(config))})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.planner = planner = JobPlanner(
            config, ("activations", "weights", "compute", "drain")
        )
        m.submodules.activations = activations = ActivationLoader(config)
        m.submodules.scratchpad = scratchpad = ActivationScratchpad(config)
        m.submodules.weights = weights = WeightLoader(config)
        m.submodules.compute = compute = ComputeSequencer(config)
        m.submodules.array = array = Array(config)
        m.submodules.accumulators = accumulators = Accumulators(config)
        m.submodules.drain = drain = Drain(config)

        connect(m, flipped(self.descriptor), planner.descriptor)
        connect(m, planner.activations, activations.job)
        connect(m, planner.weights, weights.job)
        connect(m, planner.compute, compute.job)
        connect(m, planner.drain, drain.job)
        connect(m, activations.read, flipped(self.read))
        connect(m, weights.read, flipped(self.read_weights))
        connect(m, drain.write, flipped(self.write))
        connect(m, drain.done, flipped(self.done))

        for name in ("write_en", "write_bank", "write_word", "write_lane", "write_data"):
            m.d.comb += getattr(scratchpad, name).eq(getattr(activations, name))
        for name in ("read_en", "read_bank", "read_word", "read_block"):
            m.d.comb += getattr(scratchpad, name).eq(getattr(compute, name))
        for name in ("read_en", "read_bank", "read_row"):
            m.d.comb += getattr(accumulators, name).eq(getattr(drain, name))

        at_array = Signal()  # the row that was read from the scratchpad
        m.d.sync += at_array.eq(compute.issue)
        m.d.comb += [
            compute.bank_full.eq(activations.full),
            activations.release.eq(compute.bank_release),
            array.load.eq(weights.load),
            array.beat.eq(weights.beat),
            weights.loaded.eq(array.loaded),
            compute.loaded.eq(array.loaded),
            array.swap.eq(compute.swap),
            weights.swap.eq(compute.swap),
            array.valid.eq(at_array),
            array.activations.eq(scratchpad.read_data),
            accumulators.issue.eq(compute.issue),
            accumulators.target.eq(compute.target),
            accumulators.sums.eq(array.sums),
            accumulators.take.eq(compute.accumulator_take),
            compute.accumulator_free.eq(accumulators.free),
            drain.full.eq(accumulators.full),
            accumulators.drained.eq(drain.drained),
            drain.read_data.eq(accumulators.read_data),
            drain.read_error.eq(activations.error | weights.error),
            drain.busy.eq(compute.busy),
            self.active.eq(compute.issue),
        ]
        return m
