"""Checkpoint files that are damaged, foreign or hostile: named, never run, and replaced by the one before."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from apo.errors import UserError
from apo.interfaces import Condition
from apo.modules import checkpoints
from apo.modules.checkpoints import LAST, PREVIOUS, newest, read
from apo.modules.tensor_files import TensorReader
from tests.checkpoints import content, leave_checkpoint


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_what_is_written_is_read(tmp_path):
    cond = Condition(["a"], torch.ones(1, 2, 3), torch.ones(1, 4))
    path = leave_checkpoint(
        tmp_path, 3, pairs=(torch.ones(2), cond), settings={"lr": 1e-3, "names": ["a"], "none": None}
    )
    for mmap in (False, True):
        found = read(path, mmap)
        assert torch.equal(found["pairs"][1].text, cond.text) and found["pairs"][1].prompt == ["a"]
    assert newest(tmp_path).step == 3 and newest(tmp_path).settings["lr"] == 1e-3
    assert newest(tmp_path / "elsewhere") is None


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    place = data.index(torch.full((6,), 5.0).numpy().tobytes())
    return data[:place] + b"\x01" + data[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda _: b"", lambda _: bytes(range(256)) * 40])
def test_a_damaged_last_one_falls_back_to_the_previous_and_says_so(tmp_path, damage):
    leave_checkpoint(tmp_path, 3, name=PREVIOUS)
    last = leave_checkpoint(tmp_path, 5)
    last.write_bytes(damage(last.read_bytes()))
    found = newest(tmp_path)
    assert found.step == 3 and found.path.name == PREVIOUS
    assert found.instead.startswith(f"{last} is damaged (") and found.instead.endswith(
        "continuing from previous.ckpt, step 3"
    )
    assert "\n" not in found.instead
    (tmp_path / "checkpoints" / "previous.ckpt").write_bytes(b"damaged too")
    with pytest.raises(
        UserError, match=rf"last.ckpt is damaged .*previous.ckpt is damaged .*: copy a whole .* or delete {tmp_path}"
    ):
        newest(tmp_path)


@pytest.mark.parametrize("name", [LAST, PREVIOUS])
def test_a_folder_in_a_checkpoints_place_is_refused_before_steps_are_spent(tmp_path, name):
    leave_checkpoint(tmp_path, 3, name=PREVIOUS if name == LAST else LAST)
    (tmp_path / "checkpoints" / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder, where a checkpoint file belongs: move it away"):
        newest(tmp_path)


def test_a_kill_between_the_two_renames_costs_nothing(tmp_path):
    leave_checkpoint(tmp_path, 3, name=PREVIOUS)
    assert newest(tmp_path).step == 3


STRANGE = {
    "a list": ([1, 2], "it holds a list, not a checkpoint of train.py"),
    "another program's": ({"model": torch.ones(1)}, "it has no global_step, so it is no checkpoint of train.py"),
    "weights alone": (content(1, state_dict=None), "it has no state_dict"),
    "nan": (
        content(1, state_dict={"policy.w": torch.tensor([1.0, float("nan")])}),
        "state_dict.policy.w is not finite",
    ),
    "inf": (
        content(1, optimizer_states=[{"state": {0: {"exp_avg": torch.tensor(float("inf"))}}}]),
        "optimizer_states.0.state.0.exp_avg",
    ),
    "integers": (
        content(1, state_dict={"policy.w": torch.ones(2).int()}),
        "state_dict.policy.w is of int32: weights are floating",
    ),
    "a path": (content(1, tensors="../elsewhere"), "tensors='../elsewhere' is no name of a folder"),
    "lost tensors": (content(1, tensors="step_1-01234567"), "step_1-01234567/.metadata is not there"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_checkpoint_of_ours_is_named(tmp_path, kind):
    found, said = STRANGE[kind]
    torch.save(found, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=f"{tmp_path / 'last.ckpt'} is damaged \\({said}") as caught:
        read(tmp_path / "last.ckpt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before-zip"])
def test_a_payload_in_a_checkpoint_does_not_run(tmp_path, old):
    mark, path = tmp_path / "mark", tmp_path / "last.ckpt"
    torch.save(content(1, pairs=Payload(mark)), path, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match="last.ckpt is damaged|objects in it that no train.py writes"):
        read(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it would have
    assert mark.exists()


def sharded(folder: Path, **more) -> Path:
    dcp.save({"model": {"w": torch.arange(4.0)}, **more}, checkpoint_id=folder / "step_1-01234567")
    path = folder / "last.ckpt"
    more = {"tensors": "step_1-01234567", "files": checkpoints.digests(folder / "step_1-01234567")}
    checkpoints.write(content(1, **more), path)
    return path


def test_sharded_tensors_are_read_without_unpickling_anything_else(tmp_path):
    path = sharded(tmp_path)
    into = {"model": {"w": torch.zeros(4)}}
    dcp.load(into, storage_reader=TensorReader(tmp_path / read(path)["tensors"]))
    assert torch.equal(into["model"]["w"], torch.arange(4.0))
    mark, described = tmp_path / "mark", tmp_path / "step_1-01234567" / ".metadata"
    described.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(UserError, match=r"checksum of step_1-01234567/.metadata is wrong"):
        read(path)
    with pytest.raises(UserError, match="describes no tensor"):  # though the checkpoint named this very file
        TensorReader(described.parent).read_metadata()
    assert not mark.exists()


def test_sharded_objects_that_are_no_tensors_are_not_unpickled(tmp_path):
    sharded(tmp_path, other=Payload(tmp_path / "mark"))
    with pytest.raises(UserError, match="BytesStorageMetadata describes no tensor.: it was not read"):
        TensorReader(tmp_path / "step_1-01234567").read_metadata()
    assert not (tmp_path / "mark").exists()


def test_damaged_sharded_tensors_are_named_by_the_checkpoint(tmp_path):
    path = sharded(tmp_path)
    (file,) = (tmp_path / "step_1-01234567").glob("*.distcp")
    data = file.read_bytes()
    for said, changed in (("wrong", data[:-1] + bytes([data[-1] ^ 1])), ("wrong", b""), ("not there", None)):
        file.unlink() if changed is None else file.write_bytes(changed)
        with pytest.raises(UserError, match=rf"step_1-01234567/{file.name} is {said}|{file.name} is {said}"):
            read(path)


def test_a_checkpoint_is_written_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    path = leave_checkpoint(tmp_path, 1)
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"] and zipfile.ZipFile(path).testzip() is None
