"""What is given as run=, stage=, against= or results= stays in outputs/."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from apo.config.outputs import require_writable, results_name, run_folder
from apo.errors import UserError, one_line
from apo.runs import find, find_all

ROOT = Path(__file__).parents[2]
ASTRAY = [
    "../../x",
    "/tmp/x",
    "..",
    ".",
    "",
    "a/../../b",
    "a//b",
    "a/",
    "~/x",
    ".hidden",
    "a\\b",
    "a\nb",
    "a\0b",
    "x" * 300,
    None,
    True,
    ["a"],
]


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs/r").mkdir(parents=True)
    return tmp_path / "outputs"


def finished(folder: Path) -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "lineage.json").write_text("{}")
    return folder


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_the_run_folder_is_one_line_that_names_it(outputs, monkeypatch, number):
    folder = outputs / "r" / "new" / "offline"
    require_writable(folder)
    assert not folder.parent.exists() and not list((outputs / "r").iterdir())

    def refuses(dir, **_):
        assert dir == outputs / "r"
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuses)
    said = f"^config: {folder}: {os.strerror(number)}; .*, then run the same command again$"
    with pytest.raises(SystemExit, match=said), one_line("config"):
        require_writable(folder)


@pytest.mark.parametrize("name", ASTRAY)
def test_a_name_that_is_none_is_refused_with_its_setting(outputs, name):
    with pytest.raises(UserError, match="run="):
        run_folder(name)
    with pytest.raises(UserError, match="results="):
        results_name(name)


@pytest.mark.parametrize("name", ["adapter", "checkpoints", "samples", "wandb", "videos", "config.yaml", "a/b"])
def test_results_take_no_name_of_the_trainings_own(name):
    with pytest.raises(UserError, match=f"results={name}"):
        results_name(name)


def test_plain_names_are_folders_in_outputs(outputs):
    assert run_folder("curriculum/seed_0") == Path("outputs/curriculum/seed_0") and run_folder(5) == Path("outputs/5")
    assert results_name("eval_guided") == "eval_guided" and results_name("日本") == "日本"
    outputs.rename(outputs.parent / "large_disk")
    outputs.symlink_to("large_disk")
    assert run_folder("r") == Path("outputs/r")  # outputs/ itself may be a link


def test_links_do_not_lead_out(outputs):
    (outputs / "out").symlink_to(finished(outputs.parent / "elsewhere" / "run").parent)
    (outputs / "r" / "arm").symlink_to(outputs.parent / "elsewhere" / "run")
    (outputs / "r" / "baseline").symlink_to(outputs.parent / "elsewhere")
    with pytest.raises(UserError, match="run=out: outputs/out leads to .*elsewhere, outside outputs"):
        run_folder("out")
    for arm in ("arm", "baseline", None):
        with pytest.raises(UserError, match="stage=.*leads to .*elsewhere"):
            find(OmegaConf.create({"run": "r"}), arm)


def test_an_arm_is_a_name_or_the_path_of_a_finished_run_folder(outputs):
    cfg = OmegaConf.create({"run": "r", "stage": "*"})
    (
        finished(outputs / "r" / "offline"),
        finished(outputs.parent / "elsewhere" / "run"),
        finished(outputs / "other" / "offline"),
    )
    assert find(cfg, "offline").folder == Path("outputs/r/offline")
    assert (
        find(cfg, "elsewhere/run").folder == Path("elsewhere/run")
        and find(cfg, str(outputs / "other/offline")).name == "offline"
    )
    for wrong in ("", "../other/none", "..", "elsewhere", "/", 5, "a\0b", "x" * 300):
        with pytest.raises(UserError, match="against=|has no finished adapter"):
            find(cfg, wrong, "against")
    assert [arm.name for arm in find_all(cfg)] == ["offline"]
    for wrong in ("../*", "/*", "../other/*", "nothing*"):
        with pytest.raises(UserError, match="stage="):
            find_all(OmegaConf.create({"run": "r", "stage": wrong}))


@pytest.mark.parametrize(
    "command, said",
    [
        (["train.py", "run=../../x", "max_steps=-1"], "config: run=../../x: give"),
        (["train.py", "-m", "run=a,../x", "max_steps=-1"], "config: run=../x: give"),
        (
            ["train.py", "stage.name=../../../x", "max_steps=-1"],
            "config: the run folder: outputs/main/../../../x leads to",
        ),
        (["evaluate.py", "run=../x"], "evaluate: run=../x: give"),
        (["evaluate.py", "hydra.run.dir=x"], "evaluate: hydra.run.dir=x: results go to outputs/<run>"),
    ],
)
def test_commands_refuse_before_a_folder_is_made(tmp_path, command, said):
    home = tmp_path / "home"
    home.mkdir()
    (home / "experiments").symlink_to(ROOT / "experiments")
    words, environment = [sys.executable, str(ROOT / command[0]), *command[1:]], {"PYTHONPATH": str(ROOT), "PATH": ""}
    found = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr.startswith(said) and found.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["home"] and [path.name for path in home.iterdir()] == [
        "experiments"
    ]
