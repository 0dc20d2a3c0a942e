"""The files that a newcomer starts from agree with each other."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def names(requirements: list[str]) -> set[str]:
    return {
        re.split(r"[<>=!~\[ ]", line)[0].lower() for line in requirements if line and not line.startswith(("#", "-"))
    }


def test_every_dependency_is_pinned_for_the_environment():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = names(project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra])
    assert wanted <= names(pinned)
    assert all("==" in line for line in pinned)


def test_every_file_that_says_the_version_says_the_same():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version


def test_the_hooks_are_the_installed_ruff():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"].split()[:2] for hook in repository["hooks"]] == [["ruff", "check"], ["ruff", "format"]]
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    assert all(set(hook["additional_dependencies"]) <= set(pinned) for hook in repository["hooks"])


def test_conda_environment_installs_the_same_through_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] and environment["channels"]
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "python=3.11" in plain and "pip" in plain and "-r requirements.txt" in pip


def test_readme_names_real_targets_and_files():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", readme, re.M)) <= targets
    for path in re.findall(r"\]\(([\w/.]+)\)", readme):
        assert (ROOT / path).exists(), path


def test_ci_runs_the_readmes_test_command():
    assert (ROOT / ".ci" / "run").read_text().strip().endswith("make test")
