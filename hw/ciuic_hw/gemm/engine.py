"""The GEMM engine: units that follow the same jobs, each with its own walk through them.

    memory ─► ActivationLoader ─► scratchpad ─┐
                                              ├─► PeArray ─► Accumulators ─► Drain ─► memory
    memory ─► WeightLoader ─► WeightFeeder ───┘                                │
                                                     parameters, residual ─────┘

`ComputeSequencer` leads the middle. Units meet only at banks that are full or free, so loading,
computing and draining overlap, within a job and between neighbouring jobs.
"""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from ciuic.abi import OverlayConfig

from ..attention.ports import ArrayPort
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

WRITE = ("en", "bank", "word", "lane", "data")  # of the scratchpad
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
    borrower : In(ArrayPort)
        With ``config.attention``: the array and its memories for the attention engine.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                **dict(EngineSignature(config).members),
                **{f"read_weights_{port}": Out(ReadPort(config)) for port in range(config.ports)},
                "read_parameters": Out(ReadPort(config)),
                "read_residual": Out(ReadPort(config)),
                **({"borrower": In(ArrayPort(config))} if config.attention else {}),
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

        lent = self._lend(
            m,
            {
                **{f"write_{name}": getattr(activations, f"write_{name}") for name in WRITE},
                **{f"read_{name}": getattr(compute, f"read_{name}") for name in ("bank", "word")},
                **{name: getattr(compute, name) for name in ("issue", "target", "swap")},
                **{name: getattr(feeder, name) for name in ("place", "beat")},
                "load": feeder.load_weights,
                "w4": feeder.w4,
                "add": compute.issue,
                "take": compute.accumulator_take,
                "drained": drain.drained,
                "fetch": drain.read_en,
                "fetch_bank": drain.read_bank,
                "fetch_row": drain.read_row,
            },
        )
        for name in WRITE:
            m.d.comb += getattr(scratchpad, f"write_{name}").eq(lent[f"write_{name}"])

        # Weights wait for activations on their way through the scratchpad.
        late = {
            name: delay(
                m, lent[name], SCRATCHPAD_LATENCY, reset_less=name in ("w4", "place", "beat")
            )
            for name in ("issue", "swap", "load", "w4", "place", "beat")
        }
        m.d.comb += [
            scratchpad.read_en.eq(lent["issue"]),
            scratchpad.read_bank.eq(lent["read_bank"]),
            scratchpad.read_word.eq(lent["read_word"]),
            scratchpad.read_block.eq(compute.read_block),
            compute.bank_full.eq(activations.full),
            compute.progress_0.eq(activations.progress_0),
            compute.progress_1.eq(activations.progress_1),
            activations.release.eq(compute.bank_release),
            array.load.eq(late["load"]),
            array.w4.eq(late["w4"]),
            array.place.eq(late["place"]),
            array.beat.eq(late["beat"]),
            array.swap.eq(late["swap"]),
            array.valid.eq(late["issue"]),
            array.activations.eq(scratchpad.read_data),
            feeder.swap.eq(compute.swap),
            compute.loaded_next.eq(feeder.loaded_next),
            compute.accumulator_free.eq(accumulators.free),
            accumulators.issue.eq(lent["add"]),
            accumulators.target.eq(lent["target"]),
            accumulators.swap.eq(late["swap"]),
            accumulators.slot.eq(delay(m, compute.target.slot, SCRATCHPAD_LATENCY)),
            accumulators.load_scales.eq(delay(m, feeder.load_scales, SCRATCHPAD_LATENCY)),
            accumulators.beat.eq(late["beat"]),
            accumulators.sums.eq(array.sums),
            accumulators.take.eq(lent["take"]),
            accumulators.drained.eq(lent["drained"]),
            accumulators.read_en.eq(lent["fetch"]),
            accumulators.read_bank.eq(lent["fetch_bank"]),
            accumulators.read_row.eq(lent["fetch_row"]),
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
        if config.attention:
            self._borrow(m, array, accumulators, drain)
        return m

    def _lend(self, m, driven):
        """Return what drives the array and its memories: the engine, or the borrower."""
        if not self.config.attention:
            return driven
        lent = {}
        for name, value in driven.items():
            lent[name] = Signal.like(value, name=f"lent_{name}")
            m.d.comb += lent[name].eq(Mux(self.borrower.owned, getattr(self.borrower, name), value))
        return lent

    def _borrow(self, m, array, accumulators, drain):
        """Give the borrower what the array computes."""
        borrower = self.borrower
        m.d.comb += [
            borrower.free.eq(accumulators.free),
            borrower.full.eq(accumulators.full),
            borrower.fetched.eq(accumulators.read_data),
            borrower.sums.eq(array.sums),
        ]
        with m.If(borrower.owned):
            m.d.comb += drain.full.eq(0)
        with m.If(borrower.owned & borrower.given):
            m.d.comb += array.activations.eq(borrower.activations)
