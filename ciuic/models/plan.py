"""What a model will take, found before a weight is read: where its layers go, memory, time.

Only headers are read: config.json of a folder, whose weights may be absent or broken, or the
header of a GGUF file. All else is asked of the devices and of the layers' own code, in dry runs.
Every time is an estimate: of the device's own cycle model where it has one, of the cost model
elsewhere. Not covered: loading. What does not fit is said with its numbers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ciuic.devices import DeviceManager
from ciuic.errors import ModelFormatError, UsageError
from ciuic.memory.tiers import Tier

from .converted import WEIGHTS, is_converted, open_converted
from .dry_run import DryRuntime
from .gguf_file import GgufFile
from .huggingface import CONFIG, HuggingFaceFolder
from .loading import Source, find_model, model_network
from .plan_report import DeviceMemory, ModelPlan
from .planner import Planner, PlanRequest
from .weights import Quantize

FORMATS: dict[str, Quantize | None] = {
    "int8": "int8",
    "int4": "int4",
    "auto": "auto",
    "float32": None,
}
"""Name of a number format of linear layers -> what `load_model` calls it."""
CONFIGS = Path(__file__).parent / "configs"
STORED_NBYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}


def plan_model(request: PlanRequest, manager: DeviceManager) -> ModelPlan:
    """Return the plan of a model.

    Raises
    ------
    ModelFormatError
        If the model's header is missing, broken, or of a kind that is not supported.
    UsageError
        If the request makes no sense.
    DeviceNotFound
        If a device is not here.
    """
    if request.format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, not {request.format!r}")
    source = open_outline(request.model)
    try:
        plan = _plan(request, source, manager)
        if plan.problems:
            others = [replace(request, format=name) for name in FORMATS if name != plan.format]
            fitting = [one.format for one in others if _plan(one, source, manager).fits]
            found = (*plan.would_fit, *(f"all of it in the format {name}" for name in fitting))
            plan = replace(plan, would_fit=found)
    finally:
        source.close()
    disk = DeviceMemory(
        tier=Tier.DISK.value,
        device="model file",
        capacity_bytes=None,
        nbytes={"weights": stored_bytes(source, plan.size.parameters)},
    )
    return replace(plan, memory=(*plan.memory, disk), left_out=_left_out(source))


def _plan(request: PlanRequest, source: Source, manager: DeviceManager) -> ModelPlan:
    runtime = DryRuntime(manager)
    network = model_network(source, quantize=FORMATS[request.format], runtime=runtime)
    for weights in (network.embedding, network.head, *(one.weights for one in network.layers)):
        weights.outline()
    return Planner(request, runtime, network).plan()


def open_outline(model: str | Path) -> Source:
    """Open a model of which only the header will be read.

    Raises
    ------
    ModelFormatError
        If there is none, or it is broken.
    """
    path = find_model(model)
    if is_converted(path):
        return open_converted(path)[0]
    if isinstance(model, str) and (CONFIGS / model / CONFIG).is_file():
        path = CONFIGS / model
    if path.name == CONFIG:
        path = path.parent
    if path.is_dir():
        return HuggingFaceFolder(path, weights=False)
    if not path.is_file():
        names = ", ".join(sorted(one.name for one in CONFIGS.iterdir()))
        raise ModelFormatError(
            path, f"must be a folder, its {CONFIG}, a GGUF file, or one of {names}"
        )
    return GgufFile(path)


def stored_bytes(source: Source, parameters: int) -> int:
    """Return the bytes of the model's files; what config.json says of them if they are absent."""
    if isinstance(source, GgufFile):
        converted = source.path.with_name(WEIGHTS)
        return (converted if is_converted(source.path.parent) else source.path).stat().st_size
    files = list(source.path.glob("*.safetensors"))
    if files:
        return sum(file.stat().st_size for file in files)
    dtype = str(source.config.get("torch_dtype", source.config.get("dtype")))
    if source.keys.inside("quantization_config").get("quant_method") == "fp8":
        dtype = "float8"
    return parameters * STORED_NBYTES.get(dtype, STORED_NBYTES["float32"])


def _left_out(source: Source) -> tuple[str, ...]:
    """Return what of a model is not loaded, in words."""
    if isinstance(source, GgufFile):
        return ()
    count = source.config.get("num_nextn_predict_layers", 0)
    if type(count) is not int or count < 1:
        return ()
    return (f"layers for multi-token prediction: {count}",)
