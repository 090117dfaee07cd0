"""`ciuic bench offload`: rows as promised, bounds that hold, bad input refused. Small and quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic.cli import bench_offload, main, offload_model
from ciuic.cli.bench_offload import row_of
from ciuic.cli.offload_accelerate import Offloaded, _module, is_here
from ciuic.devices import DeviceManager
from ciuic.models.converted import WEIGHTS
from ciuic.models.weight_file import WeightFile
from ciuic.runtime import Runtime

Capture = pytest.CaptureFixture[str]
KEYS = {"what", "cap", "seconds_per_token", "bound_seconds", "efficiency"}
SHORT = ["--tokens", "2", "--rounds", "1"]


def rows(capsys: Capture, *arguments: str) -> list[dict[str, Any]]:
    assert main(["bench", "offload", *SHORT, *arguments, "--json"]) in (0, 1)
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    for row in found:
        assert row.keys() == KEYS
        assert row["efficiency"] == pytest.approx(row["bound_seconds"] / row["seconds_per_token"])
    return found


def test_paced_cases(capsys: Capture) -> None:
    """With a link so slow that nothing else counts: the bound is known, and nearly reached."""
    device = "fpga:emulated?config=sim&pace=real"
    found = rows(
        capsys,
        "deepseek-tiny",
        "--only",
        "paced",
        "--device",
        device,
        "--link",
        "8",
        "--caps",
        "60",
    )
    (row,) = found
    assert (row["what"], row["cap"]) == ("paced", 0.6)
    assert 0 < row["efficiency"] < 1.2


def test_cases_on_disk(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(offload_model, "WIDTHS", {"hidden_size": 256, "intermediate_size": 512})
    found = rows(
        capsys, "--only", "disk", "--disk-mb", "4", "--caps", "40", "70", "--folder", str(tmp_path)
    )
    others = ["mmap loop", "accelerate"] if is_here() else ["mmap loop"]
    assert [row["what"] for row in found] == ["disk", *others] * 2
    assert [row["cap"] for row in found] == [0.4] * (1 + len(others)) + [0.7] * (1 + len(others))
    assert not list(tmp_path.iterdir())  # the model is gone


def test_the_same_weights_under_accelerate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its matrices give what Ciuic's do; as many bytes are in memory as the cap says."""
    needs = "needs torch and accelerate: pip install 'ciuic[accelerate]'"
    torch = pytest.importorskip("torch", reason=needs)
    pytest.importorskip("accelerate", reason=needs)
    monkeypatch.setattr(offload_model, "WIDTHS", {"hidden_size": 256, "intermediate_size": 512})
    runtime = Runtime(DeviceManager())
    source = offload_model.write_source(tmp_path, 2_000_000)
    offload_model.write_weights(tmp_path, source, runtime, lambda *_: None)
    weights = WeightFile(tmp_path / WEIGHTS)
    with offload_model.loaded(source, weights, runtime) as model:
        weight = model.layers[0].weights["gate"]
        x = np.random.default_rng(0).standard_normal((1, weight.shape[0]), np.float32)
        module = _module(weight)
        expected = runtime.run("linear", [x, weight]).numpy()
        np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), expected, rtol=1e-5)
        whole = sum(one.nbytes for layer in model.layers for _, one in layer.weights)
        (tmp_path / "offloaded").mkdir()
        offloaded = Offloaded(model, whole // 2, tmp_path / "offloaded")
        on_disk = sum(file.stat().st_size for file in (tmp_path / "offloaded").iterdir())
        assert whole // 2 - 20_000 <= on_disk < whole
        assert offloaded.token_seconds() > 0


def test_bound_is_the_larger_of_both() -> None:
    assert row_of("paced", 0.5, 4.0, 3.0, 2.0) == bench_offload.Row("paced", 0.5, 4.0, 3.0, 0.75)
    assert row_of("disk", 0.5, 4.0, 1.0, 2.0).efficiency == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "0"], "--tokens must be at least 1, not 0"),
        (["--disk-mb", "0"], "--disk-mb must be at least 1, not 0"),
        (["--caps", "100"], "--caps must be from 1 to 99 percent, not 100"),
    ],
)
def test_bad_arguments_are_refused(capsys: Capture, arguments: list[str], message: str) -> None:
    assert main(["bench", "offload", *arguments]) == 2
    assert message in capsys.readouterr().err
