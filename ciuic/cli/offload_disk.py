"""The cases of ``ciuic bench offload`` whose weights lie on disk: the CPU, and what it is up to.

The model is a Llama of random weights whose layers are as wide as those of a model of some billion
parameters, so that a layer takes milliseconds; it is written for the bench and deleted again.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ciuic.quantize import QuantizedMatrix, block_of
from ciuic.tensor import CiuicTensor

from . import output
from .bench_offload import PROMPT, Row, residency_of, row_of, seconds_per_token

if TYPE_CHECKING:
    from ciuic.devices import Weight
    from ciuic.devices.cpu import CpuDevice
    from ciuic.models.model import Model
    from ciuic.models.plan_report import DeviceResidency
    from ciuic.models.weight_file import WeightFile
    from ciuic.models.weights import LayerWeights
    from ciuic.runtime import Runtime

WIDTHS: dict[str, int] = {"hidden_size": 4096, "intermediate_size": 11008}
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
BEFORE = 2  # passes over the weights in `seconds_per_token` that are not timed
SCALE = 1e-3  # of random weights: the hidden state stays of the size of its input


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
    from ciuic.devices import DeviceManager
    from ciuic.devices.cpu import CpuDevice
    from ciuic.runtime import Runtime

    with tempfile.TemporaryDirectory(prefix="ciuic-offload-", dir=folder) as name:
        path = Path(name)
        with DeviceManager() as manager:
            runtime = Runtime(manager)
            host = runtime.device("cpu")
            assert isinstance(host, CpuDevice)
            model, file = write_model(path, nbytes, runtime, report)
            with model:
                return _measured(model, file, host, caps, tokens, rounds, report)


def _measured(
    model: Model,
    file: WeightFile,
    host: CpuDevice,
    caps: Sequence[float],
    tokens: int,
    rounds: int,
    report: output.Report,
) -> list[Row]:
    from ciuic.models.resident import resident

    steps = 1 + 2 * len(caps)
    report("disk", 0, steps)
    parts = [*(layer.weights for layer in model.layers), model.network.head]
    weights = sum(host.weight_bytes(weight) for part in parts for _, weight in part)
    model.load()
    seconds_per_token(model, tokens)  # so that the file is read, and a token recorded
    computing = min(seconds_per_token(model, tokens) for _ in range(rounds))
    rows: list[Row] = []
    for done, cap in enumerate(caps):
        report("disk", 1 + 2 * done, steps)
        _evict(model, host)
        found = residency_of(model, host, int(cap * weights), tokens, on_disk=True)
        moving, seconds = [], []
        _forget(file)
        with ExitStack() as stack:
            stack.enter_context(resident(model, [found]))
            seconds_per_token(model, 1)
            for _ in range(rounds):
                seconds.append(seconds_per_token(model, tokens))
                moving.append(_reading(model, host, found, tokens))
        transfer = statistics.median(moving)
        rows.append(row_of("disk", cap, statistics.median(seconds), computing, transfer))
        report("disk", 2 + 2 * done, steps)
        _evict(model, host)
        model.load()
        mapped = statistics.median(_mapped(model, file, rounds * tokens))
        rows.append(row_of("mmap loop", cap, mapped, computing, transfer))
    report("disk", steps, steps)
    return rows


def _forget(file: WeightFile) -> None:
    """Let a file be in no memory."""
    from ciuic.devices.disk import drop_cached

    file.release_pages()
    drop_cached(file.path)


def _evict(model: Model, host: CpuDevice) -> None:
    for weights in (*(layer.weights for layer in model.layers), model.network.head):
        for _, weight in weights:
            host.evict(weight)
    host.synchronize()


def _reading(model: Model, host: CpuDevice, found: DeviceResidency, tokens: int) -> float:
    """Return the seconds of reading what streams for a token, and doing nothing else.

    As much is read before and meanwhile as by `seconds_per_token`: disks that are shared are fast
    for a while and slower afterwards.
    """
    from ciuic.devices.disk import room_for
    from ciuic.models.converted import named_parts

    streamed = set(found.streamed)
    weights = [
        weight
        for prefix, part in named_parts(model.network)
        for role, weight in part
        if prefix + role in streamed
    ]
    memory = mmap.mmap(-1, room_for(found.slot_bytes))
    np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 0
    start = 0.0
    for cycle in range(BEFORE + tokens):
        if cycle == BEFORE:
            start = time.perf_counter()
        for weight in weights:
            assert isinstance(weight, QuantizedMatrix)
            assert weight.extent is not None
            reader = host.reader(weight.extent.path)
            reader.read(weight.extent.start, weight.values.nbytes, memory)
    return (time.perf_counter() - start) / tokens


def _mapped(model: Model, file: WeightFile, tokens: int) -> list[float]:
    """Return the seconds of tokens, before each of which the file is in no memory."""
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    model.decode(PROMPT[0], cache)
    seconds = []
    for _ in range(tokens):
        _forget(file)
        start = time.perf_counter()
        model.decode(PROMPT[0], cache)
        seconds.append(time.perf_counter() - start)
    return seconds


def write_model(
    folder: Path, nbytes: int, runtime: Runtime, report: output.Report
) -> tuple[Model, WeightFile]:
    """Write a converted model of about ``nbytes`` bytes; return it, loaded from there."""
    from tokenizers import Tokenizer as Bpe
    from tokenizers.models import BPE

    from ciuic.models.converted import WEIGHTS, named_parts, take_weights
    from ciuic.models.huggingface import CONFIG as CONFIG_NAME
    from ciuic.models.huggingface import HuggingFaceFolder
    from ciuic.models.loading import model_network
    from ciuic.models.model import Model
    from ciuic.models.tokenizer import Tokenizer
    from ciuic.models.weight_file import WeightFile, WeightWriter

    dim, hidden_dim = WIDTHS["hidden_size"], WIDTHS["intermediate_size"]
    kv_dim = dim * CONFIG["num_key_value_heads"] // CONFIG["num_attention_heads"]
    layer_nbytes = dim * (2 * dim + 2 * kv_dim + 3 * hidden_dim)
    config = {**CONFIG, **WIDTHS, "num_hidden_layers": max(1, round(nbytes / layer_nbytes))}
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    source = HuggingFaceFolder(folder, weights=False)
    network = model_network(source, quantize="int8", runtime=runtime)
    parts = [(prefix, part, role) for prefix, part in named_parts(network) for role in part.stored]
    rng = np.random.default_rng(0)
    with (folder / WEIGHTS).open("w+b") as file:
        writer = WeightWriter(file, [prefix + role for prefix, _, role in parts])
        for done, (prefix, part, role) in enumerate(parts):
            report("writing the model on disk", done, len(parts))
            writer.write(prefix + role, _random(part, prefix, role, rng))
        writer.finish()
        os.fsync(file.fileno())  # what is not on disk yet cannot be forgotten
    report("writing the model on disk", len(parts), len(parts))
    weights = WeightFile(folder / WEIGHTS)
    take_weights(network, weights)
    model = Model(
        source=source,
        network=network,
        tokenizer=Tokenizer(["a"], Bpe(BPE()), special=[], end_ids=[], bos_id=None),
        template=None,
        runtime=runtime,
    )
    return model, weights


def _random(part: LayerWeights, prefix: str, role: str, rng: np.random.Generator) -> Weight:
    shape = part.stored[role].shape
    if len(shape) == 1:
        return CiuicTensor.adopt(np.ones(shape, np.float32))
    if prefix == "embedding.":
        return CiuicTensor.adopt(rng.standard_normal(shape, np.float32))
    n, k = shape
    values = rng.integers(-127, 128, (n, k), np.int8)
    return QuantizedMatrix(values.T, np.full(n, SCALE, np.float32), block_of(k))
