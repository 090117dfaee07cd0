"""From gateware to a program: RTLIL, flattened Verilog, C++, shared library or bench executable.

Each step is cached by the content it was made from (`cache`). Flattening and optimising with Yosys
first makes the simulation several times faster than Verilator does on a design of many modules.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path

from ciuic_hw.build import processes

from . import cache, tools

logger = logging.getLogger(__name__)

TOP = "top"  # name of the top module in the netlist
FLATTEN = (
    # Cleaned before it is optimised: a register that turns out constant must have but one name.
    "read_rtlil top.il; hierarchy -auto-top; rename -top top; proc; flatten; opt_clean; opt; "
    # Parallel multiplexers would become functions, which Verilator does not see through.
    "opt_clean -purge; pmuxtree; opt_clean -purge; write_verilog -noattr top.v"
)
VERILATOR_OPTIONS = (
    "--cc --prefix Vtop --top-module top -Mdir . -O3 --x-assign fast --x-initial fast --noassert"
    " -Wno-fatal -Wno-lint -Wno-style"
    # Functions of this size compile in half the time of one for the whole design, and run faster.
    " --output-split 20000 --output-split-cfuncs 1000"
).split()
DEFINES = [
    f"-D{name}"
    for name in (
        "VERILATOR=1",
        "VM_COVERAGE=0",
        "VM_SC=0",
        "VM_TIMING=0",
        "VM_TRACE=0",
        "VM_TRACE_FST=0",
        "VM_TRACE_VCD=0",
        "VM_TRACE_SAIF=0",
    )
]
LIBRARY_FLAGS = ("-O3", "-march=native", "-fPIC")
STARTUP, STARTUP_FLAGS = "__Slow", ("-O0", "-fPIC")  # code that runs once
BENCH_FLAGS = ("-O1",)  # a bench waits for Python, not for the model
LIBRARY_STEPS = 4
LIBRARY_SOURCES = ("model.cpp", "memory.h")


def timed(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return a cache entry; log how long it takes to build."""

    def build_and_log(folder: Path) -> None:
        logger.info("building %s %s", kind, key[:8])
        start = time.perf_counter()
        build(folder)
        logger.info("built %s %s in %.1f s", kind, key[:8], time.perf_counter() - start)

    return cache.entry(kind, key, build_and_log)


def verilog(rtlil: str) -> Path:
    """Return the file of the flattened, optimised Verilog of a netlist."""

    def build(folder: Path) -> None:
        (folder / "top.il").write_text(rtlil)
        # Yosys sees a /tmp of its own, so it gets relative paths only.
        processes.run([*tools.yosys_command(), "-q", "-p", FLATTEN], folder=folder)
        (folder / "top.il").unlink()

    key = cache.content_key(rtlil, FLATTEN, tools.yosys_version())
    return timed("verilog", key, build) / "top.v"


def shared_library(rtlil: str, step: Callable[[], None], *, ports: int = 1) -> Path:
    """Return the simulation of an overlay as a shared library; see ``model.cpp`` for its calls.

    ``ports`` is the number of its memory ports. ``step`` is called after each of `LIBRARY_STEPS`
    steps, or not at all if it exists already.
    """
    sources = {name: _source(name) for name in LIBRARY_SOURCES}

    def build(folder: Path) -> None:
        for name, text in sources.items():
            (folder / name).write_text(text)
        source = verilog(rtlil)
        step()
        _verilate(source, folder, [])
        step()
        objects = _compile(folder, (*LIBRARY_FLAGS, f"-DPORTS={ports}"), folder.glob("*.cpp"))
        step()
        runtime = _runtime_objects(("verilated.cpp", "verilated_threads.cpp"), LIBRARY_FLAGS)
        _link([*objects, *runtime], ["-shared", "-o", "libmodel.so"], folder)
        _keep_only(folder, "libmodel.so")
        step()

    key = _compile_key(rtlil, str(ports), *sources.values())
    return timed("library", key, build) / "libmodel.so"


def bench_executable(rtlil: str) -> Path:
    """Return the simulator of a component for cocotb."""
    import cocotb_tools.config

    main = Path(cocotb_tools.config.share_dir) / "lib" / "verilator" / "verilator.cpp"
    libraries = Path(cocotb_tools.config.libs_dir)

    def build(folder: Path) -> None:
        shutil.copy(main, folder / "main.cpp")
        source = verilog(rtlil)
        (folder / "ports.vlt").write_text(_public_ports(source.read_text()))
        _verilate(source, folder, ["--vpi", "ports.vlt"])
        objects = _compile(folder, BENCH_FLAGS, folder.glob("*.cpp"))
        runtime = _runtime_objects(
            ("verilated.cpp", "verilated_threads.cpp", "verilated_vpi.cpp"), BENCH_FLAGS
        )
        link = [f"-Wl,-rpath,{libraries}", f"-L{libraries}", "-lcocotbvpi_verilator"]
        _link([*objects, *runtime], ["-o", TOP, *link], folder)
        _keep_only(folder, TOP)

    key = _compile_key(rtlil, main.read_text(), str(libraries))
    return timed("bench", key, build) / TOP


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()


def _compile_key(rtlil: str, *sources: str) -> str:
    # This file's text stands for the options in it.
    recipe = _source(Path(__file__).name)
    return cache.content_key(
        rtlil, recipe, tools.yosys_version(), tools.compile_fingerprint(), *sources
    )


def _verilate(source: Path, folder: Path, options: Sequence[str]) -> None:
    root = tools.verilator_root()
    processes.run(
        [str(root / "bin" / "verilator_bin"), *VERILATOR_OPTIONS, *options, str(source)],
        folder=folder,
        environment={**os.environ, "VERILATOR_ROOT": str(root)},
    )


def _compile_command(flags: Sequence[str]) -> list[str]:
    include = tools.verilator_root() / "include"
    paths = ["-I.", f"-I{include}", f"-I{include / 'vltstd'}"]
    return [tools.compiler(), "-std=c++17", "-pthread", "-w", *flags, *DEFINES, *paths, "-c"]


def _compile(folder: Path, flags: Sequence[str], sources: Iterable[Path]) -> list[Path]:
    files = sorted(sources, key=lambda file: file.stat().st_size, reverse=True)
    commands = []
    for file in files:
        own = STARTUP_FLAGS if STARTUP in file.name else flags
        commands.append([*_compile_command(own), str(file), "-o", f"{file.stem}.o"])
    processes.run_all(commands, folder=folder)
    return [folder / f"{file.stem}.o" for file in files]


def _runtime_objects(names: Sequence[str], flags: Sequence[str]) -> list[Path]:
    include = tools.verilator_root() / "include"

    def build(folder: Path) -> None:
        _compile(folder, flags, [include / name for name in names])

    key = cache.content_key(tools.compile_fingerprint(), *flags, *DEFINES, *names)
    return sorted(timed("runtime", key, build).glob("*.o"))


def _link(objects: Sequence[Path], options: Sequence[str], folder: Path) -> None:
    command = [tools.compiler(), "-pthread", *map(str, objects), *options]
    processes.run(command, folder=folder)


def _public_ports(text: str) -> str:
    # Only the ports are public: making everything visible to cocotb costs most of the speed.
    ports = re.findall(
        r"^  (?:input|output|inout) (?:wire |reg )?(?:\[.*?\] )?(\S+?) ?;", text, re.M
    )
    lines = [f'public_flat_rw -module "{TOP}" -var "{port}"' for port in ports]
    return "\n".join(["`verilator_config", *lines, ""])


def _keep_only(folder: Path, name: str) -> None:
    for file in folder.iterdir():
        if file.name != name:
            file.unlink()
