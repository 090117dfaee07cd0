"""The GEMM engine: units that follow the same jobs, each with its own walk through them.

    memory ─► ActivationLoader ─► scratchpad ─┐
                                              ├─► PeArray ─► Accumulators ─► Drain ─► memory
    memory ─► WeightLoader ─► WeightFeeder ───┘                                │
                                                     parameters, residual ─────┘

`ComputeSequencer` leads the middle. Units meet only at banks that are full or free, so loading,
computing and draining overlap, within a job and between neighbouring jobs.
"""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, Out, connect, flipped

from ciuic.abi import OverlayConfig

from ..axi.ports import EngineSignature, ReadPort
from ..streams import delay
from .accumulators import Accumulators
from .activations import SCRATCHPAD_LATENCY, ActivationLoader, ActivationScratchpad
from .array import PeArray
from .compute import ComputeSequencer
from .drain import Drain
from .epilogue import ParameterLoader, ResidualLoader
from .job import JobPlanner
from .weights import WeightFeeder, WeightLoader

__all__ = ["GemmEngine"]

UNITS = ("activations", "weights", "feeder", "compute", "parameters", "residual", "drain")


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
    read_weights_<port> : Out(ReadPort)
        Weights, one stripe a port.
    read_parameters, read_residual : Out(ReadPort)
        Parameters of columns, and the residual.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                **dict(EngineSignature(config).members),
                **{f"read_weights_{port}": Out(ReadPort(config)) for port in range(config.ports)},
                "read_parameters": Out(ReadPort(config)),
                "read_residual": Out(ReadPort(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.planner = planner = JobPlanner(config, UNITS)
        m.submodules.activations = activations = ActivationLoader(config)
        m.submodules.scratchpad = scratchpad = ActivationScratchpad(config)
        m.submodules.weights = weights = WeightLoader(config)
        m.submodules.feeder = feeder = WeightFeeder(config)
        m.submodules.compute = compute = ComputeSequencer(config)
        m.submodules.array = array = PeArray(config)
        m.submodules.accumulators = accumulators = Accumulators(config)
        m.submodules.parameters = parameters = ParameterLoader(config)
        m.submodules.residual = residual = ResidualLoader(config)
        m.submodules.drain = drain = Drain(config)

        connect(m, flipped(self.descriptor), planner.descriptor)
        units = (activations, weights, feeder, compute, parameters, residual, drain)
        for name, unit in zip(UNITS, units, strict=True):
            connect(m, getattr(planner, name), unit.job)
        connect(m, activations.read, flipped(self.read))
        connect(m, parameters.read, flipped(self.read_parameters))
        connect(m, residual.request, flipped(self.read_residual.request))
        connect(m, flipped(self.read_residual.data), drain.residual)
        connect(m, drain.write, flipped(self.write))
        connect(m, drain.done, flipped(self.done))
        for port in range(config.ports):
            read = getattr(self, f"read_weights_{port}")
            connect(m, getattr(weights, f"request_{port}"), flipped(read.request))
            connect(m, flipped(read.data), getattr(feeder, f"data_{port}"))

        for name in ("write_en", "write_bank", "write_word", "write_lane", "write_data"):
            m.d.comb += getattr(scratchpad, name).eq(getattr(activations, name))
        for name in ("read_en", "read_bank", "read_word", "read_block"):
            m.d.comb += getattr(scratchpad, name).eq(getattr(compute, name))
        for name in ("read_en", "read_bank", "read_row"):
            m.d.comb += getattr(accumulators, name).eq(getattr(drain, name))

        # Weights wait for activations on their way through the scratchpad.
        beat = {
            name: delay(m, getattr(feeder, name), SCRATCHPAD_LATENCY)
            for name in ("load_weights", "load_scales", "w4", "place", "beat")
        }
        swap = delay(m, compute.swap, SCRATCHPAD_LATENCY)
        m.d.comb += [
            compute.bank_full.eq(activations.full),
            compute.progress_0.eq(activations.progress_0),
            compute.progress_1.eq(activations.progress_1),
            activations.release.eq(compute.bank_release),
            array.load.eq(beat["load_weights"]),
            array.w4.eq(beat["w4"]),
            array.place.eq(beat["place"]),
            array.beat.eq(beat["beat"]),
            array.swap.eq(swap),
            array.valid.eq(delay(m, compute.issue, SCRATCHPAD_LATENCY)),
            array.activations.eq(scratchpad.read_data),
            feeder.swap.eq(compute.swap),
            compute.loaded.eq(feeder.loaded),
            compute.accumulator_free.eq(accumulators.free),
            accumulators.issue.eq(compute.issue),
            accumulators.target.eq(compute.target),
            accumulators.swap.eq(swap),
            accumulators.slot.eq(delay(m, compute.target.slot, SCRATCHPAD_LATENCY)),
            accumulators.load_scales.eq(beat["load_scales"]),
            accumulators.beat.eq(beat["beat"]),
            accumulators.sums.eq(array.sums),
            accumulators.take.eq(compute.accumulator_take),
            accumulators.drained.eq(drain.drained),
            drain.full.eq(accumulators.full),
            drain.read_data.eq(accumulators.read_data),
            drain.parameters_full.eq(parameters.full),
            drain.parameters_lanes.eq(parameters.lanes),
            parameters.place.eq(drain.parameters_place),
            parameters.release.eq(drain.parameters_release),
            drain.read_error.eq(activations.error | feeder.error | parameters.error),
            drain.busy.eq(compute.busy),
            self.active.eq(array.valid),
        ]
        return m
