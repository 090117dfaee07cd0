"""How good placement is, against trying everything, and how long it takes for large models.

A gap is the seconds of the plan found over those of the optimum, less one; the bound is the largest
that is accepted. Instances are random and small: up to 6 layers or tasks on up to 4 devices, most
of which have too little memory for all. Exit status 1 if a figure is beyond its bound.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ciuic.scheduler import Part, SplitProblem, place_chain, place_dag, place_split
from ciuic.scheduler.exhaustive import chain_optimum, dag_optimum, random_chain, random_dag

from . import output

EXAMPLES = """
ciuic bench placement             gaps and planning times, each with its bound
ciuic bench placement --json      for programs
"""

INSTANCES = 200
CHAIN_GAP, DAG_GAP = 0.02, 0.05
LAYERS_SECONDS, EXPERTS_SECONDS = 1.0, 10.0
CHAINS = 10  # of 61 layers; the longest time counts
EXPERT_BYTES = 3 * 7168 * 2048  # INT8


@dataclass(frozen=True)
class Gap:
    """The worst of some instances."""

    instances: int
    worst_gap: float


@dataclass(frozen=True)
class Result:
    """What ``--json`` prints."""

    chains: Gap
    dags: Gap
    seconds_61_layers: float
    seconds_58x256_experts: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench placement``."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random instances (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if a figure is beyond its bound."""
    rng = np.random.default_rng(arguments.seed)
    with output.progress() as report:
        result = Result(
            chains=_gap("chains", _chain_gap, rng, report),
            dags=_gap("task graphs", _dag_gap, rng, report),
            seconds_61_layers=_seconds_of_layers(rng),
            seconds_58x256_experts=_seconds_of_experts(rng, report),
        )
    figures = [
        (f"worst gap of {INSTANCES} chains", result.chains.worst_gap, CHAIN_GAP),
        (f"worst gap of {INSTANCES} task graphs", result.dags.worst_gap, DAG_GAP),
        ("seconds: 61 layers, 4 devices", result.seconds_61_layers, LAYERS_SECONDS),
        ("seconds: 58 layers x 256 experts", result.seconds_58x256_experts, EXPERTS_SECONDS),
    ]
    if arguments.json:
        output.print_json(result)
    else:
        output.print_table(
            [{"what": what, "found": found, "at most": bound} for what, found, bound in figures]
        )
    return 0 if all(found <= bound for _, found, bound in figures) else 1


def _gap(
    what: str,
    gap: Callable[[np.random.Generator], float],
    rng: np.random.Generator,
    report: output.Report,
) -> Gap:
    worst = 0.0
    for done in range(1, INSTANCES + 1):
        worst = max(worst, gap(rng))
        report(what, done, INSTANCES)
    return Gap(INSTANCES, worst)


def _chain_gap(rng: np.random.Generator) -> float:
    problem = random_chain(rng, layers=int(rng.integers(3, 7)), devices=int(rng.integers(2, 5)))
    return problem.time(place_chain(problem).devices) / chain_optimum(problem) - 1


def _dag_gap(rng: np.random.Generator) -> float:
    problem = random_dag(rng, tasks=int(rng.integers(3, 7)), devices=int(rng.integers(2, 4)))
    return place_dag(problem).seconds / dag_optimum(problem) - 1


def _seconds_of_layers(rng: np.random.Generator) -> float:
    """Return the longest that a chain as long as DeepSeek-V3 takes to place, of some."""
    longest = 0.0
    for number in range(CHAINS):
        problem = random_chain(rng, layers=61, devices=4, equal=number % 2 == 0)
        start = time.perf_counter()
        place_chain(problem)
        longest = max(longest, time.perf_counter() - start)
    return longest


def _seconds_of_experts(rng: np.random.Generator, report: output.Report) -> float:
    """Return the seconds to place the experts of DeepSeek-V3: 44 MB each, 8 of 256 a token."""
    problem = expert_problem(rng)
    report("experts", 0, 1)
    start = time.perf_counter()
    place_split(problem)
    seconds = time.perf_counter() - start
    report("experts", 1, 1)
    return seconds


def expert_problem(rng: np.random.Generator) -> SplitProblem:
    """Return 58 layers of 256 experts, some chosen far more often than others, on four devices.

    The accelerators have room for 35 % of the experts, all of them together.
    """
    seconds = {"cpu": 1e-3, "a": 1e-4, "b": 2e-4, "c": 5e-4}  # of one expert and token
    room = {"a": 0.2, "b": 0.1, "c": 0.05}  # share of all experts
    often = 8 * rng.dirichlet(np.full(256, 0.5), 58)  # (layers, experts): times a token chooses it
    return SplitProblem(
        stages=[
            [
                Part(
                    seconds={device: share * each for device, each in seconds.items()},
                    nbytes=dict.fromkeys(seconds, EXPERT_BYTES),
                )
                for share in map(float, layer)
            ]
            for layer in often
        ],
        transfer=lambda source, target, _stage: 0.0 if source == target else 5e-5,
        room={d: int(share * often.size * EXPERT_BYTES) for d, share in room.items()},
    )
