"""README's table of which GPU holds which model is the plan's own."""

import re
from copy import deepcopy
from dataclasses import replace

import pytest

from apo.errors import UserError
from apo.plan.report import GIB, Plan, verdict
from apo.plan.table import GPUS, NOT_YET, PLACE, README, TRAINED, cell, plans, table, written

CARDS = README.parent / "conf" / "plan"


def with_memory(plan: Plan, gib: float) -> Plan:
    cfg = deepcopy(plan.cfg)
    cfg.plan.gpu.memory_gib = gib
    return replace(plan, cfg=cfg)


def test_readme_shows_what_the_command_generates():
    text = README.read_text(encoding="utf-8")
    assert len(PLACE.findall(text)) == 1
    assert written(text, table()) == text, "run python -m apo.plan.table --write"
    with pytest.raises(UserError, match="README.md has no place for the table"):
        written("# Another", "")


def test_a_cell_agrees_with_the_plan_and_ranks_share_a_video_only_where_they_must():
    found = plans(TRAINED[0])
    assert list(found) == [f"{count} x {name}" for name in ("RTX 4090", "L40S", "H100", "H200") for count in (1, 8)]
    plan = found["8 x H100"]
    assert "It fits" in verdict(plan) and cell(plan) == f"{100 * plan.seconds(plan.flops()) / 3600:.1f} h"
    needed = sum(plan.memory().values()) / GIB
    assert re.fullmatch(r"\d+\.\d h \(4 pairs\)", cell(with_memory(plan, needed - 0.1)))
    assert cell(with_memory(plan, needed / 2)) == NOT_YET


def test_every_card_says_where_its_numbers_come_from():
    assert {f"{name}.yaml" for name in GPUS} == {path.name for path in CARDS.glob("*.yaml")}
    for name in ("rtx4090", "l40s", "h200"):
        assert re.search(r"gpu: .*# .*NVIDIA", (CARDS / f"{name}.yaml").read_text())
