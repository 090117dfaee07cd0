"""Ctrl-C, exceptions in a user's operator, and runs beside each other leave devices usable."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import ciuic
from ciuic.devices import Device, DeviceManager
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from ..ciuic.models import small_dense

PROMPT = [7, 30, 12, 99]
MAIN = "import sys; from ciuic.cli import main; sys.exit(main())"
PLACES = {0: "fpga:emulated?config=sim", 1: "cpu"}
INTERRUPTED = """
    import os, signal, sys, threading, time
    from ciuic.devices import DeviceManager
    from ciuic.models.loading import load_model
    from ciuic.runtime import Runtime

    def write(model):
        generation = model.generate([7, 30, 12, 99], 40)
        for _ in generation:
            pass
        return generation.ids

    with DeviceManager() as manager:
        with load_model(sys.argv[1], quantize="int8", runtime=Runtime(manager)) as model:
            model.place({0: "fpga:emulated?config=sim"})
            want = write(model)
            interrupts = 0
            for turn in range(12):
                timer = threading.Timer(
                    0.003 * turn, os.kill, (os.getpid(), signal.SIGINT)
                )
                try:
                    timer.start()
                    while True:
                        write(model)
                except KeyboardInterrupt:
                    interrupts += 1
                timer.join()
                assert write(model) == want, turn
            print("usable after", interrupts)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_dense.write_folder(tmp_path / "model")


def write(model: Model, tokens: int = 12) -> list[int]:
    generation = model.generate(PROMPT, tokens)
    for _ in generation:
        pass
    return generation.ids


def test_devices_are_usable_after_an_interrupt(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "usable after 12"), ended.stderr


def test_ctrl_c_ends_the_command_with_its_status() -> None:
    command = [sys.executable, "-u", "-c", MAIN, "run", "--prompt", "It was", "--max-tokens", "60"]
    # At 1 MHz the board takes a second for three tokens or so.
    command += ["--place", "*=fpga:emulated?board=pynq-z2&pace=real&clock=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(8)  # it writes
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.decode().strip().endswith("ciuic: error: interrupted")


def held_bytes(device: Device) -> int:
    """Return the bytes that arrays take, memory that stays for later tasks left out."""
    return device.used_bytes - device.kept_bytes


def test_an_exception_in_a_custom_operator_leaves_the_device_usable() -> None:
    class Breaks(ciuic.CustomOperator):
        def forward(self, x: CiuicTensor) -> CiuicTensor:
            raise RuntimeError("not today")

    ciuic.register_operator("breaks", Breaks)
    x = np.ones((2, 8), np.float32)
    with DeviceManager() as manager:
        runtime = Runtime(manager)
        for uri in ("cpu", "fpga:emulated?config=sim"):
            device = runtime.device(uri)
            gc.collect()
            before = held_bytes(device)  # by whoever else has it open in this process
            with pytest.raises(RuntimeError, match=r"^not today$"):
                runtime.run("breaks", [x], device=device)
            assert not device.lost
            assert (runtime.run("add", [x, x], device=device).numpy() == 2).all()
            gc.collect()
            assert held_bytes(device) <= before


def test_two_runs_in_one_process_and_runs_in_threads_write_what_each_writes_alone(
    folder: Path,
) -> None:
    with DeviceManager() as manager:
        runtime = Runtime(manager)
        models = [load_model(folder, quantize="int8", runtime=runtime) for _ in range(2)]
        for model in models:
            model.place(PLACES)
        want = write(models[0])
        assert write(models[1]) == want
        got: list[list[int]] = []
        threads = [
            threading.Thread(target=lambda one=model: got.append(write(one)), daemon=True)
            for model in models
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got == [want] * 4
        for model in models:
            model.close()
