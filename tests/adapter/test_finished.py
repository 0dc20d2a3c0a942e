"""Adapters that are not as they were written, and what others put into their files, are refused by every export."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apo.export import main
from apo.io.checksums import file_digest
from apo.policies.adapter import FILES
from tests.adapters import finished
from tests.policies.test_wan import LORA, make, perturbed


@pytest.fixture
def adapter(request, tmp_path):
    """Makes a finished adapter of two experts."""
    return lambda: finished(tmp_path / "run", perturbed(make(request, "wan22", LORA)), LORA, "run=trial")


@pytest.mark.parametrize(
    "damage, said",
    [
        (
            lambda folder: swap(*(folder / name for name in FILES.values())),
            "high_noise.safetensors is not the file that lineage.json names",
        ),
        (lambda folder: (folder / "low_noise.safetensors").unlink(), "low_noise.safetensors is not the file"),
        (
            lambda folder: (folder / "low_noise.safetensors").write_bytes(b"half"),
            "low_noise.safetensors is not the file",
        ),
        (lambda folder: (folder / "lineage.json").write_text("{}"), "lineage.json is damaged"),
        (lambda folder: (folder / "lineage.json").write_text("{"), "lineage.json is damaged"),
    ],
)
def test_an_adapter_that_is_not_as_it_was_written_is_refused(adapter, tmp_path, damage, said):
    folder = adapter()
    damage(folder)
    for more in ([], ["--fuse"], ["--fuse", "original"]):
        with pytest.raises(SystemExit, match=said):
            main([str(folder), "--out", str(tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


def swap(one: Path, other: Path) -> None:
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def test_nothing_in_a_lineage_is_called(adapter, tmp_path, monkeypatch):
    folder, mark = adapter(), tmp_path / "mark"
    monkeypatch.setenv("SECRET", "a secret")
    found = json.loads((folder / "lineage.json").read_text())
    call = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(mark)]}}
    for model in (
        call,
        found["config"]["model"] | call | {"path": "${oc.env:SECRET}"},
        {},
        None,
        [],
        {"path": 1, "spec": call},
    ):
        (folder / "lineage.json").write_text(json.dumps(found | {"config": found["config"] | {"model": model}}))
        with pytest.raises(SystemExit, match="^export: .*") as caught:
            main([str(folder), "--out", str(tmp_path / "out"), "--fuse"])
        assert not mark.exists() and "a secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value, said", [(float("nan"), "values that are not finite"), (3, "is of int64")])
def test_weights_that_are_no_numbers_are_named(adapter, tmp_path, value, said):
    folder = adapter()
    state = load_file(folder / "low_noise.safetensors")
    key = sorted(state)[0]
    state[key] = torch.full(state[key].shape, value)
    with safe_open(folder / "low_noise.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(state, folder / "low_noise.safetensors", metadata)
    found = json.loads((folder / "lineage.json").read_text())
    found["files"]["low_noise.safetensors"] = file_digest(folder / "low_noise.safetensors")
    (folder / "lineage.json").write_text(json.dumps(found))
    with pytest.raises(
        SystemExit,
        match=f"export: .*low_noise.safetensors: {re.escape(key)}.* {said}.*: copy the adapter/ folder again",
    ):
        main([str(folder), "--out", str(tmp_path / "out")])
