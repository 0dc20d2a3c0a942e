"""The wheel holds all that its commands need: installed away from the checkout, they train and evaluate in an empty
folder.
"""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SMALL = [
    "run=small",
    "max_steps=2",
    "sample_every_n_steps=0",
    "batch_size=2",
    "policy.lora.rank=2",
    "trainer.threads=1",
    "model.num_inference_steps=4",
    "data.count=4",
    "data.batch_size=4",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the commands: of a new environment that has the wheel, and sees this one's other packages."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    # a path in a .pth file is searched without its own .pth files: the checkout, installed editably there, is not seen
    (next(folder.glob("lib/*/site-packages")) / "beside.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(command: list, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "APO_ROOT")}
    done = subprocess.run(
        command, cwd=folder, env=environment | {"WANDB_MODE": "disabled"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_command_of_the_wheel_is_a_function(name):
    module, _, function = SCRIPTS[name].partition(":")
    assert callable(vars(import_module(module))[function])


def test_the_wheel_holds_configs_recipes_and_weights_and_nothing_beside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"apo", "_cpu_torchvision.py", "_cpu_torchvision.pth"}
    shipped = {
        f"apo/{path.relative_to(ROOT)}" for group in ("conf", "experiments") for path in (ROOT / group).rglob("*.yaml")
    }
    assert shipped <= set(names) and "apo/world/checkpoints/wan22/model_index.json" in names


def test_installed_commands_train_and_evaluate_in_an_empty_folder(installed, tmp_path):
    said = run([installed / "apo-train", *SMALL], tmp_path)
    assert "apo-evaluate run=small stage=offline" in said
    evaluation = ["run=small", "stage=offline", "conditions.count=4", "videos=1", "model.num_inference_steps=4"]
    run([installed / "apo-evaluate", *evaluation], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    left = tmp_path / "outputs/small/offline"
    assert (left / "eval/report.md").is_file() and list(left.glob("adapter/*.safetensors"))
