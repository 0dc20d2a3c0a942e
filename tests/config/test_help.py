"""--help names every group and option with a line from its YAML file; Hydra's flags and completion still work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apo.config.help import first_comment, groups, listed, options, text
from apo.places import COMMON, CONF, CONFIG_ROOTS, EVALUATION

ROOT = CONF.parent
COMMANDS = {"train.py": CONF / "train.yaml", "evaluate.py": EVALUATION / "evaluate.yaml"}
WIDTH = 110  # of an option's line


def run(*words: str, **options: str) -> str:
    environment = (
        os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"} | options
    )
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_every_group_and_option_has_a_line():
    for command, config in COMMANDS.items():
        for group in listed(config):
            assert group.about and group.options, f"{config}: say beside {group.name} what it is for"
            for option, about in group.options.items():
                assert 10 < len(about) <= WIDTH, (
                    f"{group.name}/{option}.yaml: begin with a comment of at most {WIDTH} letters"
                )
                assert about in " ".join(text(command, config).split())


def test_every_yaml_file_of_the_groups_is_listed():
    shown = {
        f"{group.name}/{option}" for config in COMMANDS.values() for group in listed(config) for option in group.options
    }
    files = {
        str(path.relative_to(folder).with_suffix(""))
        for folder in CONFIG_ROOTS
        for path in folder.glob("*/**/*.yaml")
        if not any(path.is_relative_to(inner) for inner in (COMMON, EVALUATION) if inner != folder)
    }
    assert files - shown == {"hydra/job_logging/stdout_file"}


def test_the_default_is_marked_and_the_package_line_is_no_comment():
    stage = next(group for group in groups(COMMANDS["train.py"]) if group.name == "stage")
    assert stage.chosen == "offline" and "offline *" in text("train.py", COMMANDS["train.py"])
    assert options("stage")["offline"].startswith("Offline Diffusion-APO")


def test_a_line_is_the_first_comment_without_its_command_and_may_be_missing(tmp_path):
    (tmp_path / "a.yaml").write_text("_target_: apo.x # not this\n# nor this\n")
    assert first_comment(tmp_path / "a.yaml") == ""
    (tmp_path / "a.yaml").write_text("# @package _global_\n# What it is for. `python -m apo.study a`\n# more\n")
    assert first_comment(tmp_path / "a.yaml") == "What it is for."


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_torch(command):
    code = f"sys.argv = ['{command}', 'run=x', '-h']\ntry: runpy.run_path('{command}', run_name='__main__')\n"
    said = run(sys.executable, "-c", f"import runpy, sys; {code}finally: assert 'torch' not in sys.modules")
    assert said.startswith(f"python {command} [group=option ...]") and "wan22_i2v_a14b" in said and "run=main" in said


def test_a_reader_may_close_early():
    assert run("bash", "-c", "{ python train.py --help | true; } 2>&1") == ""


def test_hydras_own_flags_go_on_working():
    assert "stage:" in run(sys.executable, "train.py", "--cfg", "job", "sampler=uniform")
    assert "Hydra" in run(sys.executable, "train.py", "--hydra-help")
    assert "Defaults List" in run(sys.executable, "train.py", "--info", "defaults")


def test_completion_in_bash_offers_the_options():
    line = "python train.py stage="
    assert run("python", "train.py", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))).split() == [
        f"stage={name}" for name in options("stage")
    ]
    line += "onl"
    asked = f'COMP_LINE="{line}"; COMP_POINT={len(line)}; COMP_CWORD=2; hydra_bash_completion; echo "${{COMPREPLY[@]}}"'
    script = f'eval "$(python train.py -sc install=bash)"; {asked}'
    assert run("bash", "-c", script).split() == ["stage=online", "stage=online_ahead"]
