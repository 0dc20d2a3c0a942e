"""The report of cheaper candidates: rates over seeds, paired differences, forwards of a step here and at scale."""

import json

import pytest
from omegaconf import OmegaConf

from apo.plan.costs import step_of
from apo.reports import cheaper
from apo.reports.arms import forwards
from tests.reports import runs

PAIRS = {
    "stage": {"name": "online", "data": "prompts", "needs_reference": True},
    "module": {"pairs": {"candidates": 2}},
}
DISTILL = {
    "module": {
        "rejected": True,
        "distill": {
            "_target_": "apo.guidance.teacher.GuidanceDistillation",
            "omega": None,
            "lambda_": None,
            "seed": 0,
            "guidance": {"_target_": "apo.guidance.cfg.CFG", "omega_high": 1.0, "omega_low": 1.0, "boundary": 0.9},
        },
    }
}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Two seeds of online and of half the solver's steps, which is worse in one video of ten; one distilled baseline."""
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "outputs"
    runs.rows(outputs / "cheaper" / "baseline" / "eval", runs.flawed(*["split"] * 4, *[""] * 6))
    for seed in range(2):
        plain, fewer = cheaper.ONLINE.format(seed), f"cheaper/cheaper_fewer_steps-seed_{seed}"
        for folder, distorted, rollout in ((plain, 2, {}), (fewer, 3, {"rollout": {"num_inference_steps": 5}})):
            runs.training(outputs / folder, 40, **PAIRS | {"module": {"pairs": {"candidates": 2} | rollout}})
            runs.rows(outputs / folder / "eval", runs.flawed(*["split"] * distorted, *[""] * (10 - distorted)))
    runs.rows(runs.training(outputs / "cheaper" / "distilled-seed_0", 20, **DISTILL) / "eval", runs.flawed("", ""))
    return outputs


def test_the_command_writes_rates_differences_and_costs(outputs, capsys):
    cheaper.main()
    text = capsys.readouterr().out
    lines = {}
    for line in text.splitlines():
        if "|" in line and "not evaluated" not in line:
            lines.setdefault(line.split("|")[1].strip(), [cell.strip() for cell in line.split("|")[2:-1]])
    online = ["20.0 ± 0.0", "", "1.000 ± 0.000", "100.0 ± 0.0", "40", "30, 1,200", "100, 4,000", "2.50", "2"]
    assert lines["online, as in the paper"] == online
    fewer = lines["half the solver's steps"]
    assert fewer[0] == "30.0 ± 0.0" and fewer[1].startswith("+10.0 [0.0, ") and fewer[5:7] == ["25, 1,000", "60, 2,400"]
    assert lines["distilled baseline"][4:7] == [
        "20",
        "25, 500",
        "",
    ]  # 5 rows of a teacher's two forwards and the student's three
    assert "| two windows a pair | not evaluated: `make cheaper`" in text
    assert (outputs / "cheaper" / "cheaper.md").read_text() in text


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["stage=online"], 100),
        (["cheaper=cache"], 44),
        (["cheaper=two_windows"], 60),
        (["cheaper=ahead"], 100),
        (["cheaper=both", "module.pairs.rollout.num_inference_steps=20"], 40),
        (["cheaper=student", "adapter=student"], 60),
        (["cheaper=guided"], 140),
        (["stage=offline"], 20),
    ],
)
def test_forwards_of_a_step_at_scale(overrides, expected):
    given = [*overrides, "guidance=cfg_stg"] if overrides == ["cheaper=guided"] else overrides
    assert forwards(cheaper.at_scale(given), 0.3 if overrides == ["cheaper=cache"] else 1.0) == pytest.approx(expected)


def test_a_stage_without_a_reference_saves_its_forward(tmp_path):
    folder = runs.training(tmp_path / "sft", 4, stage={"name": "sft", "data": "pairs", "needs_reference": False})
    assert forwards(step_of(OmegaConf.load(folder / "config.yaml"))) == 5 * 3 / 2  # one video of each pair


def test_evaluations_of_unequal_numbers_are_refused(outputs):
    rows = outputs / cheaper.ONLINE.format(1) / "eval" / "rows.json"
    found = json.loads(rows.read_text())
    rows.write_text(json.dumps(found | {"rows": found["rows"][:5]}))
    with pytest.raises(ValueError, match="unequal numbers of videos"):
        cheaper.main()
