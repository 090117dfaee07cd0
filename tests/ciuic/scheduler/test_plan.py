"""Plan: what people and machines read of it."""

from __future__ import annotations

import json

from ciuic.scheduler import Plan, Step

ASKED = Step(layer="0 L", device="fpga:rtl", reason="as asked", on_host=("add", "rope"))
CHOSEN = Step(layer="1 L", device="cpu", reason="least time", seconds=0.0025)


def test_plan_for_people() -> None:
    assert str(Plan(steps=(ASKED, CHOSEN))) == (
        "0 L: fpga:rtl (as asked; on the host: add, rope)\n1 L: cpu (least time)"
    )
    assert str(Plan(steps=(CHOSEN,), note="placed anew")).startswith("placed anew\n1 L: cpu")


def test_plan_for_machines() -> None:
    read = json.loads(json.dumps(Plan(steps=(ASKED,)).as_dict()))
    assert read == {
        "seconds": None,
        "note": "",
        "steps": [
            {
                "layer": "0 L",
                "device": "fpga:rtl",
                "reason": "as asked",
                "seconds": None,
                "on_host": ["add", "rope"],
            }
        ],
    }


def test_time_is_known_when_all_steps_are() -> None:
    assert Plan(steps=(ASKED, CHOSEN)).seconds is None
    assert Plan(steps=(CHOSEN, CHOSEN)).seconds == 0.005
