"""Searches: one knob after another or by halving, the same for every arm, nothing twice."""

import csv

import pytest

from apo.errors import UserError
from apo.studies import trials
from apo.studies.definition import load
from apo.studies.jobs import Runner
from apo.studies.output import Trials
from apo.studies.search import Search, Trial, knob
from apo.studies.work import Work
from tests.studies import runs


class Quick(Runner):
    """In the place of trainings and evaluations: leaves rows.json with what `rate(settings)` distorts, of 100
    videos."""

    def __init__(self, search: Search, rate):
        super().__init__(1)
        self.search, self.rate, self.rounds = search, rate, []

    def run(self, jobs) -> None:
        evaluations = [job for job in jobs if job.kind.startswith("evaluation") and job not in self.done]
        self.rounds.append([job.name for job in evaluations])
        self.done |= set(evaluations)
        for job in evaluations:
            words = dict(word.split("=", 1) for word in job.command[1:])
            name = "baseline" if words["stage"] == "null" else words["stage"]
            settings = {} if name == "baseline" else dict(word.rsplit("_", 1) for word in name.split("-")[1:])
            distorted, speed = (40, 1.0) if name == "baseline" else self.rate(settings)
            videos = [video | {"speed": speed} for video in runs.share(distorted)]
            runs.rows(self.search.study.arms["baseline"].run_folder(None).parent / name / "eval_validation", videos)


@pytest.fixture
def searched(outputs):
    """(changes of the search, rate) -> the search at its end, and its runner. Of two arms, unless only one is asked
    for."""

    def made(rate, arms=("apo", "no_window"), **changes) -> tuple[Search, Quick]:
        study = load("search")
        study.arms = {name: arm for name, arm in study.arms.items() if name in ("baseline", *arms)}
        study.search = study.search | changes
        search = Search(study, Work(study))
        runner = Quick(search, rate)
        search.run(search.arms(), runner)
        return search, runner

    return made


def usual(settings: dict) -> tuple[int, float]:
    """Distortion falls towards (1e-4, 1000, 16, 16), unless dynamics die: at rank 4 they do."""
    rate = 10 * (settings["lr"] == "0.0003") + 5 * (settings["beta"] == "500") + 2 * (settings["batch_size"] == "8")
    return rate + 20 * (settings["rank"] == "16"), 0.5 if settings["rank"] == "4" else 1.0


def test_the_best_of_each_coordinate_is_kept(searched):
    search, _ = searched(usual)
    for chosen in search.chosen.values():
        assert [value for _, value in chosen.settings] == ["0.0001", "1000", "16", "16"]


def test_every_arm_gets_the_same_number_of_tries(searched):
    search, runner = searched(usual)
    tries = 1 + sum(len(each.first) - 1 for each in search.knobs("apo"))
    assert tries == 5 and [len(found) for found in search.trials.values()] == [tries, tries]
    folders = [search.arm_of(trial).folder for trial in trials.tried(search)]
    assert len(set(folders)) == 10 and folders[0] == "search/apo-lr_0.0003-beta_500-rank_16-batch_size_8"
    assert [len(found) for found in runner.rounds] == [
        5,
        2,
        2,
        2,
    ]  # both arms side by side, a knob a round; the baseline first


def test_commands_are_those_of_the_arm_with_its_settings():
    study = load("search")
    search = Search(study, Work(study))
    (job, _) = [
        job for job in search.work.jobs([search.arm_of(search.first("no_window"))], [0]) if "no_window" in job.name
    ]
    assert job.shown() == (
        "python train.py run=search ablation=no_window sample_every_n_steps=0 optimizer.lr=0.0003 "
        "objective.beta=500 policy.lora.rank=16 "
        "batch_size=8 max_steps=500 hydra.run.dir=outputs/search/no_window-lr_0.0003-beta_500-rank_16-batch_size_8"
    )


def test_compute_is_equal_at_every_batch():
    study = load("search")
    search = Search(study, Work(study))
    trained = {
        (arm, batch): search.arm_of(search.first(arm).with_value("batch_size", batch)).train.split()[-1]
        for arm in ("apo", "no_window")
        for batch in ("8", "16")
    }
    assert trained["apo", "8"] == "max_steps=100" and trained["apo", "16"] == "max_steps=50"
    assert trained["no_window", "16"] == "max_steps=250"


def test_the_table_marks_what_was_chosen_and_the_csv_has_all_trials(searched, outputs):
    search, _ = searched(usual)
    text = Trials(search.study, search).write()
    head = (
        "| arm | learning rate | β | rank | batch | distorted | dynamic degree | instruction following | win/tie/loss |"
    )
    assert head in text and text.count("**apo**") == 1 and "| **0.0001** | **1000** |" in text
    assert "| apo | 0.0003 | 500 | 16 | 8 | 37.0 % (28.2-46.8) | 1.000 | 50.0 % | 3/97/0 |" in text
    lines = list(csv.DictReader((outputs / "studies" / "search" / "table.csv").open()))
    assert len(lines) == 10 and sum(line["chosen"] == "True" for line in lines) == 2
    assert [line["keeps enough"] for line in lines if line["policy.lora.rank"] == "4"] == ["False", "False"]
    assert (outputs / "studies" / "search" / "figure.png").is_file()


def test_a_knob_goes_on_while_its_last_value_is_the_best_and_no_further(searched):
    rates = {"from": 1e-4, "times": 2, "least": 3, "most": 8}
    search, _ = searched(
        lambda s: (abs(float(s["lr"]) - 16e-4) * 1e4 // 1, 1.0), arms=("apo",), knobs={"optimizer.lr": rates}
    )
    tried = [value for trial in search.trials["apo"] for _, value in trial.settings]
    assert tried == ["0.0001", "0.0002", "0.0004", "0.0008", "0.0016", "0.0032"]  # the last one is worse
    assert dict(search.chosen["apo"].settings)["optimizer.lr"] == "0.0016"


def test_values_may_be_names_of_overrides_and_arms_may_have_knobs_of_their_own(searched):
    schedule = {"values": {"constant": "decay_steps=null", "cosine": "decay_steps=${max_steps}"}}
    knobs = {"schedule": schedule, "objective.beta": {"values": [500, 100]}}
    search, _ = searched(
        lambda s: (5 if s["schedule"] == "cosine" else 9, 1.0), knobs=knobs, own={"no_window": {"objective.beta": None}}
    )
    assert dict(search.chosen["apo"].settings) == {"schedule": "cosine", "objective.beta": "500"}
    assert dict(search.chosen["no_window"].settings) == {"schedule": "cosine"}
    assert "decay_steps=${max_steps}" in search.arm_of(search.chosen["apo"]).train.split()


def test_halving_gives_the_better_half_more_steps_until_all(searched):
    halving = {"method": "halving", "factor": 2, "first_share": 0.25}
    knobs = {"objective.beta": {"values": [100, 200, 300, 400]}}
    search, runner = searched(lambda s: (int(s["beta"]) // 10, 1.0), arms=("apo",), knobs=knobs, **halving)
    assert [len(found) for found in runner.rounds] == [5, 2, 1]  # the first has the baseline, too
    assert search.chosen["apo"].name == "apo-beta_100" and [trial.share for trial in search.trials["apo"]] == [
        0.25
    ] * 4 + [0.5] * 2 + [1]
    assert search.arm_of(search.trials["apo"][0]).train.endswith("max_steps=25")
    assert "| steps |" in trials.markdown(search)


def test_finalists_get_more_seeds_and_the_best_on_average_is_chosen(searched):
    lucky = {("100", "0"): 1, ("100", "1"): 20, ("200", "0"): 2, ("200", "1"): 3}  # 100 is best in the first seed alone

    def rate(settings):
        return lucky.get((settings["beta"], settings.get("seed", "0")), 9), 1.0

    knobs, finalists = {"objective.beta": {"values": [100, 200, 300]}}, {"count": 2, "seeds": [1]}
    search, _ = searched(rate, arms=("apo",), knobs=knobs, finalists=finalists)
    assert search.chosen["apo"] == Trial("apo", (("objective.beta", "200"),)) and len(search.trials["apo"]) == 5
    assert "seed=1" in search.arm_of(search.trials["apo"][-1]).train and "| seed |" in trials.markdown(search)


def test_mistakes_are_named(searched):
    with pytest.raises(UserError, match="search.knobs.optimizer.lr: 'values': give `values`, or `from`"):
        knob("optimizer.lr", {"value": [1]})
    with pytest.raises(
        UserError, match="search.method: random is no method of the study; there are coordinate, halving"
    ):
        searched(usual, method="random")
