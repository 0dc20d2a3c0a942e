"""Cached files are looked at as a whole before their first use, and made anew where they are damaged."""

import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apo.data.pairs import UserPairs
from apo.errors import UserError
from apo.io.checksums import file_digest
from tests.data.clips import FakePolicy


def prepared(folder: Path, manifest: Path, policy=None):
    return (
        UserPairs(str(manifest), str(folder / "cache"), validation_fraction=0.0, seed=0)
        .prepare(policy or FakePolicy())
        .train
    )


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-7] ^= 1  # in a tensor: the header is sound
    file.write_bytes(data)


def changed(name: str, change):
    def save(file: Path) -> None:
        with safe_open(file, "pt") as there:
            texts = there.metadata()
        tensors = load_file(file)
        save_file(tensors | {name: change(tensors[name])}, file, texts)

    return save


class Planted:
    def __reduce__(self):
        return Path.touch, (Path("planted"),)


DAMAGES = {
    "not those that were written": flipped,
    "missing": Path.unlink,
    "safetensors": lambda file: file.write_bytes(pickle.dumps(Planted())),
}
FOREIGN = {  # of files that no list knows
    "no whole safetensors file": lambda file: file.write_bytes(file.read_bytes()[:50]),
    "chosen has NaN": changed("chosen", lambda tensor: tensor * float("nan")),
    "text is torch.int64": changed("text", torch.Tensor.long),
    "frame is torch.float32": changed("frame", torch.Tensor.float),
}


@pytest.mark.parametrize("wrong", [*DAMAGES, *FOREIGN])
def test_what_is_damaged_after_the_start_is_encoded_anew_at_its_first_use(
    tmp_path, manifest, capsys, monkeypatch, wrong
):
    monkeypatch.chdir(tmp_path)
    before = {
        name: deepcopy(item) for name, item in prepared(tmp_path, manifest)[2].items()
    }  # what was read is mapped from the file
    data = prepared(tmp_path, manifest, policy := FakePolicy())
    if wrong in FOREIGN:
        for known in (tmp_path / "cache").rglob("*.sha256"):
            known.unlink()
        data = prepared(tmp_path, manifest, policy)
    (DAMAGES | FOREIGN)[wrong](data.files[2])
    for _ in range(2):
        assert all(torch.equal(item, before[name]) for name, item in data[2].items() if isinstance(item, torch.Tensor))
        assert data[1]["prompt"] == "pair 1"
    said = [line for line in capsys.readouterr().out.splitlines() if "encoded anew" in line]
    assert (
        policy.encoded == 2
        and len(said) == 1
        and data.files[2].name in said[0]
        and (wrong in said[0] or wrong == "safetensors")
    )
    assert not (tmp_path / "planted").exists()


def test_a_file_is_read_whole_once_and_by_its_first_use(tmp_path, manifest, monkeypatch):
    prepared(tmp_path, manifest)
    read = []
    monkeypatch.setattr("apo.io.checksums.file_digest", lambda path: read.append(path) or file_digest(path))
    data = prepared(tmp_path, manifest)
    assert read == []
    for _ in range(3):
        data[0], data[4]
    assert read == [data.files[0], data.files[4]]


def test_another_writers_new_bytes_are_no_damage(tmp_path, manifest, capsys):
    data = prepared(tmp_path, manifest)
    flipped(data.files[0])
    prepared(tmp_path, manifest)[0]  # another process made it anew, with metadata in another order perhaps
    assert data[0]["prompt"] == "pair 0" and capsys.readouterr().out.count("encoded anew") == 1


def test_what_can_not_be_made_anew_is_said(tmp_path, manifest):
    data = prepared(tmp_path, manifest)
    flipped(data.files[0])
    (tmp_path / "good0.mp4").unlink()
    with pytest.raises(UserError, match="good0.mp4: no such file"):
        data[0]
