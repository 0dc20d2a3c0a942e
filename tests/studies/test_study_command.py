"""`python -m apo.study` from the command line, on the shipped world with few steps and videos."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from apo.places import ROOT
from apo.tools.warm import Done, Warm
from tests.commands import wait_for_steps

FEW = (
    "batch_size=2 data.count=4 data.batch_size=8 sample_every_n_steps=0 logger=csv policy.lora.rank=2 "
    "model.num_inference_steps=6"
)
STUDY = {
    "title": "Two arms",
    "seeds": [0],
    "evaluate": "videos=0 logger=csv model.num_inference_steps=6 conditions.count=4",
    "every_arm": {
        "train": f"run=tiny ablation={{arm}} max_steps=2 {FEW}",
        "folder": "tiny/{arm}-seed_{seed}",
        "against": "baseline",
    },
    "arms": {
        "baseline": {"title": "Baseline", "train": None, "folder": "tiny/baseline", "against": None},
        "apo": {"title": "APO"},
        "high_only": {"title": "high only"},
    },
    "measures": {"clean": "1 - distorted"},
    "tables": {
        "main": {
            "columns": [
                {"head": "", "cell": "title"},
                {"head": "distorted", "cell": "pooled", "of": "distorted"},
                {"head": "seeds", "cell": "seeds"},
            ]
        }
    },
    "figure": {"draw": "bars", "table": "main", "of": "distorted", "ylabel": "distorted, %"},
}
ENV = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def warm():
    with Warm(ROOT) as warm:
        yield warm


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """One folder for all: what one test has trained the next one finds."""
    folder = tmp_path_factory.mktemp("study")
    write(folder, "two", STUDY)
    return folder


def write(home: Path, name: str, study: dict) -> None:
    OmegaConf.save(OmegaConf.create(study), home / f"{name}.yaml")


@pytest.fixture
def study(warm, home):
    def run(*words: str) -> Done:
        return warm.run(["-m", "apo.study", *words], home, 600, **ENV)

    return run


def started(home: Path) -> dict[str, float]:
    """Logs of commands and when they were written last."""
    return {path.name: path.stat().st_mtime for path in home.glob("outputs/studies/*/logs/*.log")}


def test_what_is_missing_is_printed_trained_evaluated_and_shown_and_nothing_twice(study, home):
    done = study("two.yaml", "--print", "--seeds", "1")
    assert done.code == 0, done.output
    commands = done.output.splitlines()
    assert len(commands) == 5 and all(line.startswith(("python train.py ", "python evaluate.py ")) for line in commands)
    assert (
        f"python train.py run=tiny ablation=apo max_steps=2 {FEW} seed=1 hydra.run.dir=outputs/tiny/apo-seed_1"
        in commands
    )
    assert not (home / "outputs").exists()
    done = study("two.yaml", "--jobs", "2")
    assert done.code == 0, done.output
    assert "[5/5] " in done.output and "apo seed 0: training, 0" in done.output and "| APO | " in done.output
    folder = home / "outputs/studies/two"
    assert {path.name for path in folder.iterdir()} == {
        "logs",
        "table.md",
        "table.csv",
        "runs.csv",
        "figure.png",
        "figure.svg",
    }
    (baseline, apo, high) = csv.DictReader((folder / "runs.csv").open())
    assert (apo["seed"], apo["steps"], baseline["steps"]) == ("0", "2", "") and (
        folder / "table.md"
    ).read_text() in done.output + "\n"
    before = started(home)
    again = study("two.yaml")
    assert (
        again.code == 0 and started(home) == before and study("two.yaml", "--print").output == "# nothing is missing\n"
    )


def test_a_failing_arm_is_one_line_and_the_others_are_shown(study, home):
    broken = {"title": "Broken", "train": f"run=tiny adapter=outputs/none/adapter max_steps=2 {FEW}"}
    write(home, "broken", STUDY | {"arms": STUDY["arms"] | {"broken": broken}})
    done = study("broken.yaml")
    assert done.code == 1
    (line,) = [line for line in done.lines if "broken seed 0: training FAILED" in line]
    assert "adapter=outputs/none/adapter: no lineage.json there" in line and "broken_seed" not in line
    assert "| APO | " in done.output and "Not evaluated yet: broken seed 0." in done.output
    assert done.lines[-1] == (
        "study: 2 commands failed (broken seed 0: training, broken seed 0: evaluation); the same command "
        "tries them again"
    )


def test_other_settings_are_refused_and_the_report_takes_what_is_there(study, home):
    before = started(home)
    done = study("two.yaml", "optimizer.lr=1e-3")
    assert (
        done.code == 1
        and "apo seed 0: training FAILED: outputs/tiny/apo-seed_0/config.yaml is of a run with other" in done.output
    )
    report = study("two.yaml", "optimizer.lr=1e-3", "--report")
    assert report.code == 0 and "| high only | " in report.output and started(home) == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["two.yaml", "optimizr.lr=1"], "study: optimizr.lr: there is no such setting; did you mean optimizer.lr?"),
        (
            ["two.yaml", "--only", "apoo"],
            "study: --only: apoo is no arm of the study; there are baseline, apo, high_only",
        ),
        (["two.yaml", "--seeds", "a"], "study: --seeds a: give whole numbers, such as 0,1,2"),
        (["two.yaml", "--jobs", "0"], "study: --jobs 0: give at least 1"),
        (
            ["two.yaml", "--docs", "--report", "--seeds", "1"],
            "study: docs stay as they are, for not evaluated yet: apo seed 1, high_only seed 1",
        ),
    ],
)
def test_mistakes_are_one_line(study, words, said):
    done = study(*words)
    assert (done.code, done.lines[-1]) == (1, said)


def test_a_search_goes_on_where_it_was_and_chooses(study, home):
    knobs = {"optimizer.lr": {"values": [1e-4, 1e-3]}, "objective.beta": {"values": [500, 100]}}
    best = {"least": "distorted", "then_most": "followed", "keep": {"speed": 0.5}}
    search = STUDY | {
        "every_arm": {
            "train": f"run=tiny ablation={{arm}} max_steps=1 {FEW}",
            "folder": "tiny/found",
            "against": "baseline",
        },
        "search": {"method": "coordinate", "knobs": knobs, "best": best},
        "tables": {},
        "figure": None,
    }
    search["arms"] = {name: STUDY["arms"][name] for name in ("baseline", "apo")}
    write(home, "found", search)
    printed = study("found.yaml", "--print").output.splitlines()  # of the first round, and the baseline is evaluated
    assert len(printed) == 4 and "optimizer.lr=0.001 objective.beta=500 hydra.run.dir=" in printed[2]
    done = study("found.yaml", "--jobs", "2")
    assert done.code == 0, done.output
    lines = list(csv.DictReader((home / "outputs/studies/found/table.csv").open()))
    assert len(lines) == 3 and sum(line["chosen"] == "True" for line in lines) == 1 and "**apo**" in done.output
    before = started(home)
    assert study("found.yaml").code == 0 and started(home) == before


def test_ctrl_c_saves_what_runs_and_the_same_command_continues(study, home):
    long = STUDY["every_arm"] | {"train": f"run=tiny ablation=apo max_steps=16 checkpoint_every_n_steps=16 {FEW}"}
    arms = {"baseline": STUDY["arms"]["baseline"], "long": {"title": "Long"}}
    write(home, "long", STUDY | {"every_arm": long, "arms": arms, "seeds": [5]})
    command = [sys.executable, "-m", "apo.study", "long.yaml", "trainer.threads=1"]
    process = subprocess.Popen(
        command, cwd=home, env=os.environ | ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = home / "outputs/tiny/long-seed_5"
    wait_for_steps(process, folder, 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.strip().splitlines() == [f"interrupted; the same command continues: {' '.join(command)}"]
    assert (folder / "checkpoints").is_dir() and not (folder / "adapter").exists()
    reached = (folder / "metrics.csv").read_text().count("\n") - 1
    done = study("long.yaml", "trainer.threads=1")
    assert done.code == 0 and "| Long | " in done.output, done.output
    steps = [int(line["step"]) for line in csv.DictReader((folder / "metrics.csv").open())]
    assert steps == list(range(16)) and 2 <= reached < 16
    assert json.loads((folder / "eval" / "report.json").read_text())["against"]["run"] == "baseline"
