"""Commands that are forked behave as in an interpreter of their own."""

import pytest

from apo.tools.inputs import ROOT
from apo.tools.warm import Real, Warm

SCRIPT = """
import os, subprocess, sys, time
print(sys.argv[1:], os.environ["NAME"], flush=True)
print("wrong", file=sys.stderr)
if sys.argv[1] == "child":
    sys.exit(subprocess.run([sys.executable, sys.argv[0], "text"]).returncode)
if sys.argv[1] == "hang":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(60)
sys.exit({"code": 75, "none": None, "text": "config: no"}[sys.argv[1]])
"""


@pytest.fixture(scope="module")
def shells():
    with Warm(ROOT) as warm, Real() as real:
        yield warm, real


@pytest.mark.parametrize("how, code", [("code", 75), ("none", 0), ("text", 1), ("child", 1)])
def test_exit_status_output_and_children_are_those_of_an_interpreter(shells, tmp_path, how, code):
    (tmp_path / "script.py").write_text(SCRIPT)
    for shell in shells:
        done = shell.run(["script.py", how, "b c"], tmp_path, 60, NAME="x y")
        assert done.code == code and "x y" in done.output and "wrong" in done.output


def test_what_takes_too_long_is_killed_with_its_children(shells, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    for shell in shells:
        done = shell.run(["script.py", "hang"], tmp_path, 1, NAME="x")
        assert done.code == -9 and done.wall_s < 20


def test_what_is_killed_before_it_has_begun_has_ended(shells, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    for milliseconds in range(0, 60, 3):
        assert shells[0].run(["script.py", "hang"], tmp_path, milliseconds / 1000, NAME="x").code == -9
