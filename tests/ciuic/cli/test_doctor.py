"""`ciuic doctor`: what is missing is named together with what mends it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from ciuic import cli
from ciuic.cli import checks
from ciuic.models import fetch

Capture = pytest.CaptureFixture[str]


def check(role: str, what: str) -> checks.Check:
    return next(found for found in checks.examine([role]) if found.what == what)


def test_json_holds_every_check_of_the_role(capsys: Capture) -> None:
    status = cli.main(["doctor", "--for", "simulate", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert status == (0 if shown["ok"] else 1)
    assert {"role", "what", "ok", "found", "mend"} == set(shown["checks"][0])
    assert {row["role"] for row in shown["checks"]} == {"simulate"}
    assert all(row["ok"] or row["mend"] for row in shown["checks"])


def test_missing_model_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main(["doctor", "--for", "run"]) == 1
    shown = capsys.readouterr().out
    assert "MISSING  run  smollm2-135m-instruct" in shown
    assert shown.endswith("mend with:\n  ciuic fetch\n")
    assert cli.main(["doctor", "--for", "run", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["ok"]


def test_damaged_model_is_found_by_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = fetch.smollm2_file()
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(fetch.MODEL_NBYTES)
    found = check("run", "smollm2-135m-instruct")
    assert (found.ok, found.mend) == (False, "ciuic fetch")
    assert found.found == f"{path}, checksum wrong"


def test_cache_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = check("run", "cache folder")
    assert not found.ok
    assert found.found == f"{tmp_path}/file/ciuic cannot be written to"


def test_missing_compiler_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = check("simulate", "C++ compiler")
    assert found == checks.Check(
        role="simulate",
        what="C++ compiler",
        ok=False,
        found="none of g++, c++ runs",
        mend="apt-get install g++",
    )


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> str:
        raise checks.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(checks.importlib.metadata, "version", nowhere)
    found = next(iter(checks.examine(["board"])))
    assert (found.ok, found.what) == (False, "pynq")
    assert found.mend is not None
    assert found.mend.endswith(" -m pip install 'ciuic[board]'")


@pytest.mark.opencl
def test_opencl_is_said_to_work_where_a_kernel_ran() -> None:
    found = check("opencl", "OpenCL runtime")
    assert found.ok
    assert "compiled and ran a kernel" in found.found


def test_boards_are_looked_for_on_boards_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert checks.roles_here() == ["run", "opencl", "simulate"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert checks.roles_here() == ["run", "opencl", "simulate", "board"]


def test_programs_of_a_build_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vivado").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {check.what: check for check in checks.examine(["build"])}
    assert found["vivado"].found == str(tmp_path / "vivado")
    assert found["nextpnr-xilinx"].found.startswith("not on the PATH")
    assert all(found[program].ok for program in checks.BUILD_PROGRAMS)
