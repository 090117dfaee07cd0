"""What is told of a device that failed, and what becomes of the model and of the device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ciuic.abi import CONFIGS
from ciuic.cli import main
from ciuic.devices import Device, DeviceManager
from ciuic.devices import manager as manager_module
from ciuic.devices.manager import scheme_of
from ciuic.errors import DeviceError, DeviceNotFound, DeviceTimeout, PlacementError
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.ops.attention_int8 import int8_form
from ciuic.runtime import Runtime

from ..ciuic.models import small_dense
from .faulty import Fault, Schedule, open_faulty

PROMPT = [7, 30, 12, 99]
PROMPT_ROW = np.linspace(-1, 1, 2 * small_dense.BASE["hidden_size"], dtype=np.float32).reshape(
    2, -1
)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with DeviceManager() as manager:
        path = small_dense.write_folder(tmp_path / "model")
        with load_model(path, quantize="int8", runtime=Runtime(manager)) as model:
            yield model


@pytest.fixture
def opened() -> Iterator[Callable[[Schedule], Device]]:
    devices: list[Device] = []

    def open_one(schedule: Schedule) -> Device:
        devices.append(open_faulty(f"fpga:{len(devices)}", schedule)[0])
        return devices[-1]

    yield open_one
    for device in devices:
        device.close()


def ids_as_fpga(model: Model) -> list[int]:
    """Return what the CPU writes with a layer in the formats of the overlay that will fail."""
    layer = model.layers[1]
    layer.as_fpga, layer.attention = True, int8_form(CONFIGS["sim"].cols)
    ids = ids_of(model)
    layer.as_fpga, layer.attention = False, None
    return ids


def ids_of(model: Model) -> list[int]:
    generation = model.generate(PROMPT, 6)
    for _ in generation:
        pass
    return generation.ids


def test_a_model_goes_on_without_the_device_and_tells_its_story(
    model: Model, opened: Callable[[Schedule], Device]
) -> None:
    device = opened(Schedule(Fault.BUS_ERROR, at=20))
    want = ids_as_fpga(model)
    model.place({1: device})
    assert ids_of(model) == want
    (recovered,) = model.recovered
    assert recovered.moved == {"layer 1": "cpu"}
    assert recovered.story.device == "fpga:0"
    assert re.fullmatch(r"(linear|attention)( \d+x\d+(x\d+)?)+", recovered.story.doing)
    assert len(recovered.story.before) == 5
    assert re.match(
        r"fpga:0 failed: descriptor \d+ \((GEMM|SOFTMAX|ATTENTION)\) ended with READ_ERROR: the "
        rf"memory answered a read with an error; fpga:0 was doing {recovered.story.doing}; before ",
        str(recovered),
    )
    assert str(recovered).endswith(" ms); goes on with layer 1 on cpu")
    assert ids_of(model) == want  # the next text too
    assert len(model.recovered) == 1


def test_a_device_that_a_bus_error_stopped_can_be_used_again(
    model: Model, opened: Callable[[Schedule], Device]
) -> None:
    device = opened(Schedule(Fault.BUS_ERROR, at=3))
    model.place({0: device})
    ids_of(model)
    assert not device.lost
    device.upload(PROMPT_ROW).numpy()
    layer = model.layers[0]
    got = layer.submit(PROMPT_ROW, device=device).numpy()
    assert (got == layer.submit(PROMPT_ROW).numpy()).all()


def test_a_lost_device_answers_at_once_with_the_story_of_its_loss(
    model: Model, opened: Callable[[Schedule], Device]
) -> None:
    device = opened(Schedule(Fault.TIMEOUT, at=1))
    layer = model.layers[0]
    with pytest.raises(DeviceTimeout, match=r"^no completion of a descriptor within 0.02 s") as one:
        layer.submit(PROMPT_ROW, device=device).numpy()
    assert device.lost
    with pytest.raises(DeviceError, match=r"^fpga:0 cannot run upload any more: no compl") as two:
        layer.submit(PROMPT_ROW, device=device).numpy()
    assert one.value.story is not None
    assert one.value.story == two.value.story


def test_a_device_that_is_gone_is_not_opened_again_to_go_on_without_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Scheme:
        @staticmethod
        def open_device(uri: str) -> Device:
            if opened:
                raise DeviceNotFound(uri, "it was removed")
            opened.append(uri)
            return open_faulty(uri, Schedule(Fault.REMOVED, at=20))[0]

    monkeypatch.setattr(
        manager_module, "scheme_of", lambda uri: Scheme if uri == "fpga:gone" else scheme_of(uri)
    )
    want = ids_as_fpga(model)
    model.place({1: "fpga:gone"})
    assert ids_of(model) == want
    assert [one.moved for one in model.recovered] == [{"layer 1": "cpu"}]
    with pytest.raises(DeviceNotFound):
        model.runtime.device("fpga:gone")


@pytest.mark.parametrize("room", [True, False])
def test_the_command_reports_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    room: bool,
) -> None:
    uri = f"fpga:command-{room}"

    class Scheme:
        @staticmethod
        def open_device(uri: str) -> Device:
            return open_faulty(uri, Schedule(Fault.TIMEOUT, at=30))[0]

    monkeypatch.setattr(
        manager_module, "scheme_of", lambda name: Scheme if name == uri else scheme_of(name)
    )
    if not room:
        monkeypatch.setattr("ciuic.scheduler.failover.HOST", "nowhere")
    path = str(small_dense.write_folder(tmp_path / "model"))
    command = ["run", path, "--prompt", "the", "--raw", "--max-tokens", "8", "--place", f"1={uri}"]
    status = main([*command, "--check"])
    out, err = capsys.readouterr()
    if room:
        assert status == 0
        assert f"{uri} failed: no completion of a descriptor within 0.02 s (" in out
        assert "; goes on with layer 1 on cpu" in out
        assert "writes the same tokens" in out
    else:
        assert status == 2
        assert err.splitlines()[-2:] == [
            "ciuic: error: no other device has room for layer 1: none",
            err.splitlines()[-1],
        ]
        assert err.splitlines()[-1].startswith(f"{uri} was doing ")


def test_what_is_nobodys_fault_has_no_story(model: Model) -> None:
    with pytest.raises(PlacementError) as error:
        model.runtime.device("cpu").submit("no such operator", [])
    assert error.value.story is None
