"""The studies of experiments/study: each is whole, and shows what it is for."""

import re

import pytest

from apo.errors import UserError
from apo.places import ROOT
from apo.studies import figures
from apo.studies.definition import FOLDER, load
from apo.studies.prose import paragraph
from apo.studies.session import Session
from apo.studies.tables import column
from apo.studies.work import TRAINING, Work
from tests.studies import runs
from tests.studies.conftest import cells

NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def test_there_is_one_for_each_experiment():
    assert {"table1", "online", "curriculum", "rs_ro", "cheaper", "search", "fig3", "table3"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_composes_and_comes_after_what_it_needs(name):
    study = load(name)
    jobs = (
        Work(study).jobs(study.arms.values(), [0])
        if study.search is None
        else Work(study).jobs([study.arms["baseline"]], [0])
    )
    assert len({job.shown() for job in jobs}) == len(jobs) > 0
    for place, job in enumerate(jobs):
        assert set(job.needs) <= set(jobs[:place]), job.name
    for given in study.tables.values():
        assert all(column(each, "x") for each in given["columns"])
    if study.figure:
        assert study.figure["table"] in study.tables and figures.drawing(study.figure)


def test_the_study_that_the_documentation_shows_is_whole(tmp_path, outputs, report):
    page = (ROOT / "docs" / "add_a_part.md").read_text()
    (tmp_path / "rates.yaml").write_text(re.search(r"```yaml\n(title:.*?)```", page, re.S)[1])
    study = load(str(tmp_path / "rates.yaml"))
    commands = [job.shown() for job in Work(study).jobs(study.arms.values(), study.seeds)]
    assert commands[0] == "python evaluate.py run=rates stage=null against=null videos=0 results=eval"
    assert (
        "python train.py run=rates stage=offline optimizer.lr=4e-4 seed=1 hydra.run.dir=outputs/rates/4e-4-seed_1"
        in commands
    )
    runs.rows(outputs / "rates" / "4e-4-seed_0" / "eval", runs.share(7))
    assert "| 4e-4 | 7.0 [3.4, 13.7] |" in report(str(tmp_path / "rates.yaml")).write()


@pytest.mark.parametrize(
    "name, arm, folder, train",
    [
        ("table1", "apo", "table1/ablation_apo-seed_1", "paper=table1 ablation=apo"),
        ("online", "0.1", "online/ranker.error_rate_0.1-seed_1", "paper=online ranker.error_rate=0.1"),
        ("online", "half_online", "half_online/seed_1", "paper=half_online"),
        ("cheaper", "cache", "cheaper/cheaper_cache-seed_1", "paper=cheaper cheaper=cache"),
        ("cheaper", "student", "cheaper/cheaper_student-seed_1", "paper=cheaper_student"),
        ("rs_ro", "student_wo_rs_ro", "rs_ro_distilled/arm_wo_rs_ro-seed_1", "paper=rs_ro_distilled arm=wo_rs_ro"),
        ("curriculum", "distill_dpo", "curriculum/seed_1/distill_dpo", "curriculum=5_distill_dpo"),
    ],
)
def test_runs_are_where_the_documented_sweeps_put_them(name, arm, folder, train):
    study = load(name)
    job = next(job for job in Work(study).jobs([study.arm(arm)], [1]) if job.name == f"{arm} seed 1: training")
    assert job.shown() == f"python train.py {train} seed=1 hydra.run.dir=outputs/{folder}"


def test_overrides_go_where_they_belong():
    words = ["model.stg.lambda_=0.2", "trainer.threads=3", "max_steps=3", "conditions.count=8"]
    session = Session(load("curriculum"), words, parallel=2, dry=True, exact=False)
    commands = [job.shown() for job in session.work.jobs([session.study.arm("online")], [0])]
    trains, evaluates = ([command for command in commands if word in command] for word in ("train.py", "evaluate.py"))
    assert len(trains) == 1 and len(evaluates) == 4
    assert "trainer.threads=3 model.stg.lambda_=0.2 max_steps=3 seed=0" in trains[0]  # the last one counts
    assert all(
        "model.stg.lambda_=0.2 conditions.count=8" in command and "max_steps" not in command for command in evaluates
    )


def test_a_seed_starts_from_the_same_seed_of_what_it_comes_after():
    work = Work(load("curriculum"))
    work.add(work.study.arm("distill_dpo"), 2)
    chain = work.found["distill_dpo", 2, TRAINING]
    names = []
    while chain.needs:
        (chain,) = chain.needs
        names.append(chain.name)
    assert names == [f"{stage} seed 2: training" for stage in ("distill", "offline", "half_online", "online")]


@pytest.fixture
def rs_ro(outputs, report):
    """Distillation distorts a tenth more with RS & RO, and three tenths more without, in each of three seeds."""
    for arm, lost in (("apo", 10), ("wo_rs_ro", 30)):
        for seed in range(3):
            for results in ("eval", "eval_guided"):
                runs.rows(outputs / "table1" / f"ablation_{arm}-seed_{seed}" / results, runs.share(10))
            runs.rows(outputs / "rs_ro_distilled" / f"arm_{arm}-seed_{seed}" / "eval", runs.share(10 + lost))
    return lambda: report("rs_ro")


def test_what_distillation_costs_is_compared_between_arms(rs_ro, outputs):
    with_both = cells(rs_ro(), "main", "with RS & RO")
    assert [with_both[head] for head in ("before, guided", "before, one forward", "after")] == [
        "10.0 ± 0.0",
        "10.0 ± 0.0",
        "20.0 ± 0.0",
    ]
    assert with_both["lost, points"].startswith("10.0 ± 0.0 [")
    said = paragraph(rs_ro().results)
    assert said.startswith("With RS & RO 20.0 points less are lost [") and said.endswith("the interval excludes 0.")
    for seed in range(3):
        runs.rows(outputs / "rs_ro_distilled" / f"arm_apo-seed_{seed}" / "eval", runs.share(40))
    assert paragraph(rs_ro().results).endswith("the interval holds 0: no difference is shown.")


def test_seeds_without_a_partner_are_left_out(rs_ro, outputs):
    (outputs / "rs_ro_distilled" / "arm_apo-seed_2" / "eval" / "rows.json").unlink()
    pair = rs_ro().found["main"].rows[0].beside
    assert pair.seeds == [0, 1] and pair.difference("distorted").shape == (2, 100)
    assert "20.0 points less are lost" in paragraph(rs_ro().results)


def test_figure_3_shows_wins_ties_and_losses_before_and_after_distillation(outputs, report):
    for seed in range(2):
        for arm, distorted in (("apo", 5), ("diffusion_dpo", 12), ("wo_rs_ro", 6)):
            runs.rows(outputs / "table1" / f"ablation_{arm}-seed_{seed}" / "eval_guided", runs.share(distorted))
            runs.rows(outputs / "rs_ro_distilled" / f"arm_{arm}-seed_{seed}" / "eval", runs.share(distorted + 1))
    found = report("fig3", [0, 1])
    before, after = (cells(found, "main", f"{when}, over Diffusion-DPO") for when in ("before", "after"))
    assert before["win/tie/loss"] == after["win/tie/loss"] == "14/186/0" and before["preferred, % of all"].startswith(
        "+7.0 ["
    )
    single, corrected = float(before["p (McNemar)"]), float(before["p, all rows (Holm)"])
    assert single == pytest.approx(2 / 2**14, rel=0.03) and corrected == pytest.approx(
        4 * single, rel=0.1
    )  # of four rows
    figure = figures.drawing(found.study.figure)(found.found["main"].rows)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "before, over Diffusion-DPO",
        "before, over APO w/o RS & RO",
        "after, over Diffusion-DPO",
        "after, over APO w/o RS & RO",
    ]


def test_table_3_has_its_six_dimensions_in_percent(outputs, report):
    slow, cut = {"speed": 1.0}, {"distorted": True, "cause": "cut"}
    runs.rows(outputs / "curriculum" / "baseline" / "eval_guided", [slow, slow, cut | {"speed": 2.0}, {"speed": 2.0}])
    for seed in range(3):
        runs.rows(outputs / "curriculum" / f"seed_{seed}" / "distill_dpo" / "eval", [{"speed": 2.0}] * 4)
    baseline, ours = (cells(report("table3"), "main", title) for title in ("Baseline", "Ours"))
    assert list(baseline)[1:7] == [
        "subject consistency",
        "background consistency",
        "motion smoothness",
        "dynamic degree",
        "aesthetic quality",
        "imaging quality",
    ]
    assert baseline["dynamic degree"] == "50.00 (52.85)" and baseline["imaging quality"] == "75.00 (70.36)"
    assert baseline["aesthetic quality"] == "100.00 (61.53)" and ours["motion smoothness"] == "50.00 ± 0.00 (98.87)"
    assert report("table3").write().count("| Ours |") == 1


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


def test_cheaper_candidates_are_compared_with_the_online_stage_at_their_costs(outputs, report):
    runs.rows(outputs / "cheaper" / "baseline" / "eval", runs.share(4, 10))
    for seed in range(2):
        for folder, distorted, rollout in (
            (f"online/ranker.error_rate_0.0-seed_{seed}", 2, {}),
            (f"cheaper/cheaper_fewer_steps-seed_{seed}", 3, {"rollout": {"num_inference_steps": 5}}),
        ):
            runs.training(outputs / folder, 40, **PAIRS | {"module": {"pairs": {"candidates": 2} | rollout}})
            runs.rows(outputs / folder / "eval", runs.share(distorted, 10))
    runs.rows(runs.training(outputs / "cheaper" / "distilled-seed_0", 20, **DISTILL) / "eval", runs.share(0, 10))
    found = report("cheaper", [0, 1])
    online = cells(found, "in_the_world", "online, as in the paper")
    assert list(online.values())[1:] == [
        "20.0 ± 0.0",
        "",
        "1.500 ± 0.000",
        "50.0 ± 0.0",
        "40",
        "30, 1,200",
        "100, 4,000",
        "2.50",
        "2",
    ]
    fewer = cells(found, "in_the_world", "half the solver's steps")
    assert fewer["difference"].startswith("+10.0 [0.0, ") and fewer["forwards of a step, of the run"] == "25, 1,000"
    assert fewer["of Wan2.2"] == "60, 2,400" and cells(found, "in_the_world", "baseline")["difference"] == ""
    distilled = cells(found, "guided", "distilled baseline")
    assert (
        distilled["forwards of a step, of the run"] == "25, 500"
    )  # 5 rows of a teacher's two forwards and the student's three


def test_mistakes_in_a_study_are_named(tmp_path):
    with pytest.raises(UserError, match="tabel1: there is no such study; give one of cheaper, curriculum"):
        load("tabel1")
    path = tmp_path / "mine.yaml"
    path.write_text("title: x\nseeds: [0]\narms: {a: {title: A, folder: x/a, against: b}}\n")
    with pytest.raises(UserError, match="arms.a: b is no arm of the study; there are a"):
        load(str(path))
    path.write_text("title: x\nseeds: [0]\narms: {a: {titel: A, folder: x/a}}\n")
    with pytest.raises(UserError, match="mine.yaml: .*titel.*: correct the file; .*table1.yaml is an example"):
        load(str(path))
