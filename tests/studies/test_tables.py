"""Tables of studies: rates over seeds, wins on equal conditions, costs, what is missing; of Table 1's study and the
online one's."""

import csv

import pytest
from omegaconf import OmegaConf

from apo.errors import UserError
from apo.studies.measurements import forwards, recorded_step, training
from apo.studies.scale import at_scale
from apo.studies.tables import column
from tests.studies import runs
from tests.studies.conftest import cells


@pytest.fixture
def table1(outputs, report):
    """A baseline, APO and DPO with three seeds each at equal compute, and an arm that is not evaluated."""
    run = outputs / "table1"
    runs.rows(run / "baseline" / "eval", runs.share(20))
    for seed, (apo, dpo) in enumerate([(6, 12), (8, 15), (10, 18)]):
        runs.rows(runs.training(run / f"ablation_apo-seed_{seed}", 100, 5) / "eval", runs.share(apo))
        runs.rows(runs.training(run / f"ablation_diffusion_dpo-seed_{seed}", 500, 1) / "eval", runs.share(dpo))
    runs.training(run / "ablation_wo_rs-seed_0")
    return lambda: report("table1")


def test_seeds_are_averaged_and_their_videos_pooled(table1):
    apo = cells(table1(), "main", "Diffusion-APO")
    assert apo["distorted, % [pooled]"] == "8.0 ± 2.0 [5.4, 11.6]" and apo["paper, %"] == "8.0 ± 1.0"
    assert apo["instruction, % [pooled]"] == "50.0 ± 0.0 [44.4, 55.6]" and apo["win/tie/loss"] == "36/264/0"
    assert (apo["seeds"], apo["videos"], apo["dynamic degree, px/frame"]) == ("3", "300", "1.500 ± 0.000")
    baseline = cells(table1(), "main", "Pre-trained")
    assert (baseline["seeds"], baseline["videos"], baseline["win/tie/loss"], baseline["wall time, s"]) == (
        "",
        "100",
        "",
        "",
    )


def test_equal_compute_is_equal_forward_equivalents(table1):
    apo, dpo = (cells(table1(), "main", title) for title in ("Diffusion-APO", "Diffusion-DPO"))
    assert apo["forward-equivalents"] == dpo["forward-equivalents"] == str(100 * 5 * 4)
    assert apo["wall time, s"] == "250" and apo["pairs"] == "8"


def test_arms_stand_in_the_studys_order_and_what_is_missing_is_named(table1):
    found = table1()
    assert [row.own.arm.name for row in found.found["main"].rows] == ["baseline", "diffusion_dpo", "apo"]
    assert "Not evaluated yet: wo_rs_ro seed 0" in found.write() and "wo_rs seed 0" in found.results.missing()


def test_all_files_are_written_and_the_csv_has_numbers(table1, outputs):
    text = table1().write()
    folder = outputs / "studies" / "table1"
    assert (folder / "table.md").read_text().startswith("# Table 1") and "Wall time: the sum" in text
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG") and "one seed" in (
        folder / "figure.svg"
    ).read_text()
    apo = next(line for line in csv.DictReader((folder / "table.csv").open()) if line["arm"] == "apo")
    assert float(apo["distorted, % [pooled]"]) == pytest.approx(8) and apo["win/tie/loss: win"] == "36"
    assert float(apo["paper, %: sd"]) == 1 and float(apo["distorted, % [pooled]: high"]) == pytest.approx(
        11.6, abs=0.05
    )
    per_run = [line for line in csv.DictReader((folder / "runs.csv").open()) if line["arm"] == "diffusion_dpo"]
    assert [line["distorted"] for line in per_run] == ["0.12", "0.15", "0.18"] and per_run[0]["forwards"] == "2000.0"


def test_the_paragraph_says_what_is_shown_and_what_is_not(table1, outputs):
    said = table1().write()
    assert "- Diffusion-APO against Diffusion-DPO: -7.0 points of distorted [" in said
    assert "21 better and 0 worse of 300 (McNemar p 9.5e-07, Holm 9.5e-07): better: Diffusion-APO." in said
    for seed in range(3):
        runs.rows(outputs / "table1" / f"ablation_diffusion_dpo-seed_{seed}" / "eval", runs.share(8))
    assert "(McNemar p 1, Holm 1): no difference is shown." in table1().write()


def test_nothing_evaluated_is_an_error_that_says_what_to_run(report):
    with pytest.raises(UserError, match="no arm of table1 is evaluated yet: `python -m apo.study table1` trains"):
        report("table1")


def test_a_damaged_evaluation_is_named_with_the_remedy(table1, outputs):
    path = outputs / "table1" / "ablation_apo-seed_1" / "eval" / "rows.json"
    for damaged in (path.read_text()[:-20], "[]", ""):
        path.write_text(damaged)
        with pytest.raises(UserError, match="rows.json is damaged: run its evaluate.py command again"):
            table1()


def test_unequal_numbers_of_videos_are_named(table1, outputs):
    runs.rows(outputs / "table1" / "ablation_apo-seed_1" / "eval", runs.share(3, n=64))
    with pytest.raises(
        UserError, match="ablation_apo-seed_1/eval/rows.json has 64.*evaluate all seeds with the same conditions.count"
    ):
        table1()
    for seed in (0, 2):
        runs.rows(outputs / "table1" / f"ablation_apo-seed_{seed}" / "eval", runs.share(3, n=64))
    with pytest.raises(
        UserError, match="apo has 64 conditions and baseline has 100 conditions: evaluate both with the same"
    ):
        table1()


def test_a_column_that_is_none_and_a_measurement_that_is_not_there_are_named(table1):
    with pytest.raises(UserError, match="tables.main: cell: pooled_rate is no function"):
        column({"cell": "pooled_rate"}, "tables.main")
    row = table1().found["main"].rows[0]
    with pytest.raises(
        UserError, match="baseline has no measurement beauty; there are prompt, distorted, cause, followed, speed"
    ):
        column({"cell": "pooled", "of": "beauty"}, "tables.main")(row)


def test_docs_are_filled_only_once_all_is_evaluated(table1, outputs, tmp_path):
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("before\n\n<!-- table table1.main -->\n\n| old |\n\n<!-- end of table -->\n\nafter\n")
    with pytest.raises(UserError, match="docs stay as they are, for not evaluated yet: wo_rs_ro seed 0"):
        table1().fill_docs(page.parent)
    found = table1()
    for arm in found.study.arms.values():
        for seed in arm.seeds([0, 1, 2]):
            runs.rows(arm.run_folder(seed) / "eval", runs.share(5))
    found = table1()
    assert found.fill_docs(page.parent) == [page]
    assert page.read_text() == (
        f"before\n\n<!-- table table1.main -->\n\n{found.found['main'].markdown()}\n\n<!-- end of table -->\n\nafter\n"
    )


def test_rates_costs_and_shares_of_time_are_those_of_the_folders(outputs, report):
    run = outputs / "online"
    runs.rows(run / "baseline" / "eval", runs.share(40))
    for seed, distorted in enumerate((10, 20)):
        runs.rows(runs.training(run / f"ranker.error_rate_0.0-seed_{seed}", 40) / "eval", runs.share(distorted))
        runs.rows(runs.training(outputs / "half_online" / f"seed_{seed}", 40) / "eval", runs.share(distorted + 5))
    runs.rows(runs.training(run / "ranker.error_rate_0.3-seed_0", 40) / "eval", runs.share(35))
    found = report("online", [0, 1])
    online = cells(found, "main", "annotator's error rate 0.0")
    assert online["distorted, % [pooled]"].startswith("15.0 ± 7.1 [") and online["clean: win/tie/loss"] == "50/150/0"
    assert (online["forward-equivalents"], online["s a step"], online["generate, %"]) == ("800", "2.50", "0")
    assert online["optimize, %"] == "100" and online["seeds"] == "2"
    assert cells(found, "main", "annotator's error rate 0.3")["seeds"] == "1"
    half = cells(found, "summary", "then half-online")  # against the online result of the same seed
    assert half["clean: won/lost"] == "0/10" and half["dynamic degree"] == "1.500"
    assert "Not evaluated yet: " in found.write() and (outputs / "studies" / "online" / "figure.png").is_file()


PAIRS = {
    "stage": {"name": "online", "data": "prompts", "needs_reference": True},
    "module": {"pairs": {"candidates": 2}},
}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, 10),
        ({"rollout": {"num_inference_steps": 5}}, 5),
        ({"rollout": {"num_inference_steps": None}}, 10),
        ({"candidates": 4}, 20),
    ],
)
def test_generation_counts_in_forwards_of_the_pairs(tmp_path, changes, expected):
    folder = runs.training(tmp_path / "run", 40, **PAIRS | {"module": {"pairs": {"candidates": 2} | changes}})
    cfg = OmegaConf.load(folder / "config.yaml")
    assert forwards(recorded_step(cfg)) == 5 * 4 + expected
    assert forwards(recorded_step(cfg), blocks=0.5) == 5 * 4 + expected / 2
    cfg.module.windows_per_pair = 2
    assert forwards(recorded_step(cfg), blocks=0.5) == 5 * 4 + expected / 4


def test_what_a_run_folder_names_as_its_source_is_not_built(tmp_path):
    pairs = {"_target_": "somebody.elses.Pairs", "candidates": 2, "rollout": {"_target_": "somebody.elses.Rollout"}}
    folder = runs.training(tmp_path / "run", 40, **PAIRS | {"module": {"pairs": pairs}})
    assert training(folder).forwards_a_step == 5 * 4 + 10


def test_a_stage_without_a_reference_saves_its_forward(tmp_path):
    folder = runs.training(tmp_path / "sft", 4, stage={"name": "sft", "data": "pairs", "needs_reference": False})
    assert forwards(recorded_step(OmegaConf.load(folder / "config.yaml"))) == 5 * 3 / 2  # one video of each pair


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["stage=online"], 100),
        (["cheaper=cache"], 44),
        (["cheaper=two_windows"], 60),
        (["cheaper=ahead"], 100),
        (["cheaper=both", "module.pairs.rollout.num_inference_steps=20"], 40),
        (["cheaper=student", "adapter=student"], 60),
        (["cheaper=guided", "guidance=cfg_stg"], 140),
        (["stage=offline"], 20),
    ],
)
def test_forwards_of_a_step_at_scale(overrides, expected):
    assert forwards(at_scale(overrides), 0.3 if overrides == ["cheaper=cache"] else 1.0) == pytest.approx(expected)
