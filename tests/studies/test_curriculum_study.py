"""The curriculum's study: each stage as it is used, against the one before, and in the form of Table 2."""

import pytest

from apo.studies.definition import load
from tests.studies import runs
from tests.studies.conftest import cells


@pytest.fixture
def curriculum(outputs, report):
    """Two seeds; before distillation guided results differ from those in one forward. The last stage is not
    evaluated."""
    run = outputs / "curriculum"
    runs.rows(run / "baseline" / "eval_guided", runs.flawed("deformed", "flicker", "", ""))
    runs.rows(run / "baseline" / "eval", runs.flawed("deformed", "flicker", "cut", "split"))
    for seed in (0, 1):
        for stage in ("online", "half_online", "offline", "distill"):
            runs.rows(run / f"seed_{seed}" / stage / "eval", runs.flawed("", "flicker" if seed else "", "vanished", ""))
            if stage != "distill":
                videos = runs.flawed("", "", "vanished" if stage == "online" else "", "")
                videos[3]["followed"] = stage != "online"
                runs.rows(run / f"seed_{seed}" / stage / "eval_guided", videos)
    return lambda: report("curriculum", [0, 1])


def test_stages_are_measured_as_they_are_used(curriculum):
    offline, after = (cells(curriculum(), "main", title) for title in ("+ offline", "+ distillation"))
    assert offline["distorted, % [pooled]"].startswith("0.0 ± 0.0") and offline["unguided, %"].startswith("37.5 ± 17.7")
    assert after["distorted, % [pooled]"] == after["unguided, %"] and after["videos"] == "8"
    every = curriculum().found["every_metric"]
    assert [(row.title, row.evaluation) for row in every.rows][-3:] == [
        ("+ offline", "eval_guided"),
        ("+ offline", "eval"),
        ("+ distillation", "eval"),
    ]


def test_wins_are_counted_against_the_stage_above_on_equal_conditions(curriculum):
    online, half = (cells(curriculum(), "main", title) for title in ("+ online", "+ half-online"))
    assert online["clean: win/tie/loss"] == "4/2/2"  # the one baseline counts for both seeds
    assert half["clean: win/tie/loss"] == half["followed: win/tie/loss"] == "2/6/0"
    assert cells(curriculum(), "main", "Baseline")["clean: win/tie/loss"] == "" and half["paper, %"] == "7.5"


def test_a_stage_of_one_seed_stands_against_that_seed_alone(curriculum, outputs):
    (outputs / "curriculum" / "seed_1" / "online" / "eval_guided" / "rows.json").unlink()
    assert cells(curriculum(), "main", "+ half-online")["clean: win/tie/loss"] == "1/3/0"


def test_table_2s_columns_lie_between_0_and_2(curriculum):
    baseline = cells(curriculum(), "table2", "Baseline")
    numbers = [float(text.split()[0]) for text in list(baseline.values())[1:]]
    assert numbers == pytest.approx([1.0, 1.5, 2.0, 1.0, 2.0, 7.5])  # flicker is no flaw of the digit's
    assert baseline["Overall"] == "7.50 (7.64)"
    for arm in load("curriculum").arms.values():
        *parts, printed = [value for of, value in arm.paper.items() if of != "distorted"] or [0]
        assert sum(parts) == pytest.approx({"offline": 8.24}.get(arm.name, printed)), arm.name  # the paper prints 8.12


def test_what_is_not_evaluated_is_named(curriculum):
    assert "Not evaluated yet: distill_dpo seed 0, distill_dpo seed 1." in curriculum().write()


def test_the_quick_one_has_the_same_stages_and_runs_of_its_own():
    quick, whole = load("curriculum_quick"), load("curriculum")
    assert list(quick.arms) == list(whole.arms) and quick.seeds == [0]
    assert quick.arms["online"].train == "curriculum=quick/1_online"
    assert str(quick.arms["online"].run_folder(2)) == "outputs/curriculum_quick/seed_2/online"
