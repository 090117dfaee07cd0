"""`ciuic run` on small random models: output, JSON, exit codes, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ciuic.cli import main
from ciuic.devices.native_calls import RowWeight
from ciuic.models.divided import place_operators
from ciuic.models.loading import load_model
from ciuic.ops.linear import FloatWeight
from ciuic.quantize import QuantizedMatrix

from ..scheduler.chrome_format import check_format, check_nesting, slices
from .conftest import Write

PROMPT = ["--prompt", "the", "--max-tokens", "6"]


DESCRIPTORS = "descriptors, at the overlay's clock"


def test_text_is_streamed_and_reported(
    small_model: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(small_model(50))
    assert main(["run", path, *PROMPT, "--check"]) == 0
    out = capsys.readouterr().out
    with load_model(path) as model:
        text = "".join(model.generate("the", 6))
    for expected in (
        "placement of small:\n      0-1  cpu\n     head  cpu\n",
        f"\n{text}\n(",
        "who ran what:",
        "time to first token: ",
        "check: the CPU alone, with the same quantization, writes the same tokens",
    ):
        assert expected in out


def test_json_is_one_object_and_nothing_else(
    small_model: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(small_model(50)), *PROMPT, "--json", "--check"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "small"
    assert report["placement"] == {"0-1": "cpu", "head": "cpu"}
    assert len(report["token_ids"]) == report["speed"]["tokens"]
    assert report["check"] == {"same_tokens": True, "cpu_text": report["text"], "layers": []}
    ops = report["usage"][0]["ops"]
    # A token after the prompt is one task where the CPU has kernels in C.
    assert ops["attention"] + 2 * ops.get("decode", 0) == 2 * len(report["token_ids"])


def test_text_ends_before_stop_strings(
    small_model: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(small_model(50))
    with load_model(path, quantize="int8") as model:
        text = "".join(model.generate("the", 6))
    stop = ["--stop", "never", "--stop", text[2:4], "--check", "--json"]
    assert main(["run", path, *PROMPT, *stop]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"] == report["check"]["cpu_text"] == text[: text.index(text[2:4])]
    assert report["stop_reason"] == "stop"


BATCH = ["--prompt", "the", "--prompt", "a 12", "--max-tokens", "6"]


def test_several_prompts_are_printed_apart_in_their_order(
    small_model: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = str(small_model(50)), tmp_path / "prompts.txt"
    file.write_text("x\n\n  \nthe the\n")
    assert main(["run", path, *BATCH, "--prompts", str(file), "--check"]) == 0
    out = capsys.readouterr().out
    with load_model(path, quantize="int8") as model:
        expected = "".join(
            f"[{n}] {prompt}\n{''.join(model.generate(prompt, 6))}\n(ended at --max-tokens)\n\n"
            for n, prompt in enumerate(["the", "a 12", "x", "the the"], start=1)
        )
    assert expected in out
    assert "(in 4 texts at once, 20 tokens after the first of each)" in out
    assert out.count("writes the same tokens") == 4


def test_several_prompts_as_json(small_model: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(small_model(50))
    assert main(["run", path, *BATCH, "--stop", "never", "--check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [answer["prompt"] for answer in report["answers"]] == ["the", "a 12"]
    for answer in report["answers"]:
        assert main(["run", path, "--prompt", answer["prompt"], *PROMPT[2:], "--json"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert alone["token_ids"] == answer["token_ids"]
        assert answer["check"]["same_tokens"]
    assert report["tokens_per_second"] > 0
    written = [a["speed"]["prompt_tokens"] + a["speed"]["tokens"] - 1 for a in report["answers"]]
    assert report["cache"]["tokens"] == sum(written)


def test_prompt_cache_is_made_used_and_refused(
    small_model: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompt.cache"
    arguments = ["run", str(small_model(50)), *PROMPT, "--prompt-cache", str(file), "--json"]
    reports = []
    for _ in range(2):
        assert main([*arguments, "--check"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["token_ids"] == reports[1]["token_ids"]
    reused = [report["speed"]["reused_tokens"] for report in reports]
    assert reused == [0, reports[0]["speed"]["prompt_tokens"] - 1]
    assert reports[0]["cache"]["bytes_per_token"] == 512
    assert reports[0]["cache"]["tokens"] == len(reports[0]["token_ids"]) + reused[1]
    before = file.read_bytes()
    assert main([*arguments, "--quantize", "none"]) == 2
    assert "made by another model" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("quantize", "ops"),
    [
        ("int8", {"linear"}),
        ("int4", {"linear", "linear_int4"}),  # the output matrix is INT8
        ("auto", {"linear", "linear_float32"}),
        ("none", {"linear_float32"}),
    ],
)
def test_quantization_is_as_asked(
    small_model: Write, capsys: pytest.CaptureFixture[str], quantize: str, ops: set[str]
) -> None:
    arguments = ["run", str(small_model(53)), *PROMPT, "--place", "1=fpga:emulated", "--json"]
    assert main([*arguments, "--quantize", quantize]) == 0
    usage = json.loads(capsys.readouterr().out)["usage"]
    assert {op for row in usage for op in row["ops"] if op.startswith("linear")} == ops


@pytest.mark.parametrize(("quantize", "op"), [("int8", "linear"), ("int4", "linear_int4")])
def test_layers_on_an_fpga_are_checked_bit_for_bit(
    small_model: Write, capsys: pytest.CaptureFixture[str], quantize: str, op: str
) -> None:
    arguments = ["run", str(small_model(51)), *PROMPT, "--place", "0=cpu,1=fpga:emulated"]
    assert main([*arguments, "--quantize", quantize, "--check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["placement"] == {"0": "cpu", "1": "fpga:emulated", "head": "cpu"}
    (layer,) = report["check"]["layers"]
    assert layer["equal"]
    assert layer["tasks"][op] == 14
    (fpga,) = report["fpga"]
    assert fpga["cycles"] > 0
    assert 0 < fpga["array_utilisation"] <= 1
    assert fpga["seconds_at_clock"] == pytest.approx(fpga["cycles"] / fpga["clock_hz"])
    assert [row["emulated"] for row in report["devices"]] == [False, True]


def test_boards_of_another_model_are_not_reported(
    small_model: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    with load_model(small_model(51), quantize="int8") as other:
        divided = {(0, "down"): ("cpu", "fpga:emulated?config=tiny")}
        assert place_operators(other.layers, other.runtime, divided)
        arguments = ["run", str(small_model(52)), *PROMPT, "--place", "1=fpga:emulated", "--json"]
        assert main([*arguments, "--quantize", "int8"]) == 0
        assert list(other.runtime.divisions)
    (fpga,) = json.loads(capsys.readouterr().out)["fpga"]
    assert fpga["device"] == "fpga:emulated"


def test_other_tokens_are_a_failure(
    small_model: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, placement = str(small_model(52)), ["--place", "1=fpga:emulated"]
    for kind in (RowWeight, FloatWeight):  # how the CPU holds weights, with and without C
        right = kind.of
        monkeypatch.setattr(
            kind, "of", lambda w, right=right: right(QuantizedMatrix(w.values, 2 * w.scales))
        )
    assert main(["run", path, *PROMPT, *placement, "--check", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["check"]["layers"][0]["equal"]


def test_trace_is_written_whole(
    small_model: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.json"
    assert main(["run", str(small_model(50)), *PROMPT, "--trace", str(path)]) == 0
    events = json.loads(path.read_text())["traceEvents"]
    assert {"attention", "linear", "kv_append"} <= {event["name"] for event in events}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.gguf", "trace.json"]


def test_a_trace_has_the_descriptors_of_an_fpga_below_its_tasks(
    small_model: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, uri = tmp_path / "trace.json", "fpga:emulated?board=pynq-z2&pace=real"
    arguments = [*PROMPT, "--place", f"0={uri}", "--trace", str(path), "--json"]
    assert main(["run", str(small_model(50)), *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    trace = json.loads(path.read_text())
    check_format(trace)
    for lane in ("tasks", DESCRIPTORS):
        check_nesting(trace, lane)
    mine = [one for one in slices(trace) if one.process == uri]
    tasks = [one for one in mine if one.lane == "tasks"]
    descriptors = [one for one in mine if one.lane == DESCRIPTORS]
    (fpga,) = report["fpga"]
    assert sum(one.args["cycles"] for one in descriptors) == fpga["cycles"]
    for one in descriptors:  # the board's time on the host's axis: within the task that waits
        around = [t for t in tasks if t.start <= one.start < t.start + t.duration]
        assert len(around) == 1, one
        assert one.start + one.duration <= around[0].start + around[0].duration, one
        assert one.duration == pytest.approx(1e6 * one.args["cycles"] / fpga["clock_hz"], rel=0.01)
    assert {one.name for one in mine if one.lane == "the host waits"} == {"wait"}
    counters = {event["name"] for event in trace["traceEvents"] if event["ph"] == "C"}
    assert counters == {"host bytes", "device bytes"}
    (row,) = [row for row in report["usage"] if row["device"] == uri]
    assert 0 < row["utilisation"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a" * 200], "a prompt must be at most 128 tokens, the context of small, not"),
        (["--prompt", "", "--raw"], "a prompt must have at least one token"),
        (["--prompt", "a", "--max-tokens", "0"], "max_tokens must be at least 1, not 0"),
        (["--prompt", "a", "--stop", ""], "a stop string must have at least one character"),
        (["--prompt", "a", "--top-p", "2"], "top_p must be above 0 and at most 1, not 2.0"),
        (["--prompt", "a", "--check", "--temperature", "1"], "--check must repeat the choices"),
        (["--prompt", "a", "--trace", "/no/such/t"], "--trace must be in a folder that can be"),
        (["--prompt", "a", "--prompt", "b", "--prompt-cache", "c"], "keeps one prompt, not 2"),
        (["--prompts", "/no/such"], "--prompts /no/such cannot be read"),
        ([], "there must be a prompt: --prompt TEXT or --prompts FILE"),
        (["--prompt", "a", "--prompt-cache", "/no/c"], "--prompt-cache must be in a folder that"),
        (["--prompt", "a", "--place", "0=nowhere"], "nowhere"),
        (["--prompt", "a", "--place", "7=cpu"], "7"),
    ],
)
def test_bad_input_is_refused_before_work(
    small_model: Write,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("ciuic.models.model.Model.load", lambda *_: pytest.fail("work began"))
    assert main(["run", str(small_model()), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ciuic: error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_missing_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.gguf"
    assert main(["run", str(path), *PROMPT]) == 2
    expected = f"ciuic: error: {path}: cannot be read (No such file or directory)\n"
    assert capsys.readouterr().err == expected


def test_interrupt_ends_with_130(
    small_model: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ciuic.models.sampling.Sampler.choose", interrupt)
    trace = tmp_path / "trace.json"
    assert main(["run", str(small_model()), *PROMPT, "--trace", str(trace)]) == 130
    assert not trace.exists()


def test_devices_lists_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = {row["uri"]: row["kind"] for row in found["devices"]}
    assert kinds["cpu"] == "CPU"
    assert kinds["fpga:emulated"] == "FPGA"
    assert all(row["memory_bytes"] > 0 for row in found["devices"])
    assert main(["devices"]) == 0
    assert "emulated" in capsys.readouterr().out
