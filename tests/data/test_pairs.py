import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.testing import assert_close
from torch.utils.data import DataLoader

import apo.data.pairs
from apo.data.manifest import ManifestError
from apo.data.pairs import UserPairs
from apo.data.stream import StepBatches
from apo.parts import Setting
from tests.data.clips import FakePolicy, Spec, counted, write_jsonl


@pytest.fixture
def pairs(tmp_path, manifest):
    data = UserPairs(str(manifest), str(tmp_path / "cache"), validation_fraction=0.0, seed=0)
    return data.prepare(FakePolicy()).train


def test_collate_pads_text_with_zeros(pairs):
    batch = pairs.collate([pairs[0], pairs[5]])
    assert batch.chosen.shape == batch.rejected.shape == (2, 3, 2, 2, 3)
    assert batch.cond.prompt == ["pair 0", "pair 1"]
    assert batch.cond.text.shape == (2, 8, 4)
    assert batch.cond.text[:, 2:].eq(0).all() and batch.cond.text[:, :2].ne(0).all()
    assert batch.cond.image.shape == (2, 7, 2, 2, 3) and batch.cond.frame.dtype == torch.uint8
    assert batch.cond.image_embeds is None


def test_cached_conditions_equal_the_policys(pairs):
    policy, item = FakePolicy(), pairs.collate([pairs[3]])
    fresh = policy.encode_condition(item.cond.prompt, item.cond.frame)
    assert_close(item.cond.text, fresh.text)
    assert_close(item.cond.image, fresh.image)


def test_an_epoch_has_every_pair_once(pairs):
    steps = StepBatches(pairs, batch_size=3, steps=14, seed=1)
    stream = [index for step in range(14) for index in steps.indices(step)]
    for epoch in range(6):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert stream[:7] != stream[7:14]
    assert stream != [index for step in range(14) for index in StepBatches(pairs, 3, 14, seed=2).indices(step)]


def test_two_ranks_see_what_one_with_twice_the_batch_sees(pairs):
    one = StepBatches(pairs, batch_size=4, steps=6, seed=1)
    two = [StepBatches(pairs, batch_size=2, steps=6, seed=1, rank=rank, world=2) for rank in range(2)]
    for step in range(6):
        whole, halves = one[step], [rank[step] for rank in two]
        assert_close(torch.cat([half.rejected for half in halves]), whole.rejected, rtol=0, atol=0)
        assert halves[0].cond.prompt + halves[1].cond.prompt == whole.cond.prompt


def test_a_resumed_run_sees_the_same_pairs(pairs):
    steps = StepBatches(pairs, batch_size=2, steps=8, seed=1)
    through = [batch.rejected for batch in DataLoader(steps, batch_size=None)]
    later = DataLoader(StepBatches(pairs, 2, 8, seed=1), batch_size=None, sampler=range(5, 8))
    resumed = [batch.rejected for batch in later]
    assert len(through) == 8 and all(a.equal(b) for a, b in zip(through[5:], resumed, strict=True))
    assert len(list(steps)) == 8


def test_the_identity_is_of_the_content_wherever_the_files_lie(tmp_path, records, manifest):
    def identity() -> str:
        data = UserPairs(str(write_jsonl(manifest, records)), str(tmp_path / "cache"), validation_fraction=0.0, seed=0)
        return data.prepare(FakePolicy()).train.identity

    first = identity()
    (tmp_path / "good3.mp4").rename(tmp_path / "moved.mp4")
    records[3]["chosen"] = "moved.mp4"
    assert identity() == first and len(first) == 64
    records[3]["prompt"] = "another"
    second = identity()
    counted(tmp_path / "moved.mp4", 6, start=50)
    assert len({first, second, identity()}) == 3


def test_the_split_holds_out_whole_conditions(pairs):
    split = pairs.split(0.3, seed=0)
    prompts = [{side[i]["prompt"] for i in range(len(side))} for side in (split.train, split.validation)]
    assert not prompts[0] & prompts[1] and len(prompts[0] | prompts[1]) == 4
    assert len(split.train) + len(split.validation) == 7
    assert len(split.validation) in (3, 4)  # 2.1 pairs in whole conditions of one or two
    assert pairs.split(0.3, seed=0).validation.files == split.validation.files
    assert Counter(len(pairs.split(0.01, seed).validation) for seed in range(20)).keys() <= {1, 2}
    assert len({tuple(pairs.split(0.3, seed).validation.files) for seed in range(20)}) > 1


def test_the_split_leaves_pairs_to_train_on(pairs):
    with pytest.raises(ValueError, match="validation_fraction=0.99 of 7 pairs of 4 conditions leaves none"):
        pairs.split(0.99, seed=0)


def test_check_finds_bad_rows_and_settings_without_a_model(tmp_path, manifest, monkeypatch):
    data = UserPairs(str(manifest), str(tmp_path / "cache"), validation_fraction=0.2, seed=0)
    data.check(Setting(Spec()))
    (tmp_path / "bad4.mp4").unlink()
    with pytest.raises(ManifestError, match="1 bad row\n  line 5: .*bad4.mp4: no such file"):
        data.check(Setting(Spec()))
    with pytest.raises(ValueError, match="data.validation_fraction=1.5"):
        UserPairs(str(manifest), str(tmp_path / "cache"), validation_fraction=1.5, seed=0)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")  # under torchrun each process looks at its share
    monkeypatch.setenv("RANK", "1")
    data.check(Setting(Spec()))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ManifestError, match="line 5"):
        data.check(Setting(Spec()))


class SlowPolicy(FakePolicy):
    """stops: once so many videos are encoded, it says so and never comes back."""

    def __init__(self, mark: Path, stops: int | None = None):
        super().__init__()
        self.mark, self.stops = mark, stops

    def encode(self, video):
        time.sleep(0.1)
        if self.stops is not None and self.encoded >= self.stops:
            self.mark.touch()
            time.sleep(600)
        return super().encode(video)


def prepare_as(rank: int, folder: Path, manifest: Path, stops: int | None = None) -> None:
    """One of two processes as torchrun starts them."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    (folder / f"{rank}.here").touch()
    while stops is None and not (folder / f"{1 - rank}.here").exists():
        time.sleep(0.01)
    policy, data = (
        SlowPolicy(folder / "stuck", stops),
        UserPairs(str(manifest), str(folder / "cache"), validation_fraction=0.0, seed=0),
    )
    files = [file.name for file in data.prepare(policy).train.files]
    (folder / f"{rank}.json").write_text(json.dumps([policy.encoded, files]))


def test_processes_that_do_not_know_each_other_yet_share_the_encoding_and_agree(tmp_path, manifest):
    mp.spawn(prepare_as, (tmp_path, manifest), nprocs=2)
    (encoded, files), (other_encoded, other_files) = (json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1))
    assert (encoded, other_encoded) == (8, 6) and files == other_files and len(files) == 7


def test_the_share_of_a_process_that_died_is_taken_over(tmp_path, manifest, monkeypatch):
    died = mp.get_context("spawn").Process(target=prepare_as, args=(1, tmp_path, manifest, 2))
    died.start()
    while not (tmp_path / "stuck").exists():
        assert died.is_alive()
        time.sleep(0.01)
    threading.Timer(1.0, died.kill).start()
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    policy = FakePolicy()
    data = UserPairs(str(manifest), str(tmp_path / "cache"), validation_fraction=0.0, seed=0)
    assert len(data.prepare(policy).train.files) == 7 and policy.encoded == 14 - 2
    died.join()
    (tmp_path / "bad4.mp4").write_bytes(
        (tmp_path / "good0.mp4").read_bytes() + b"\0\0\0\x08free"
    )  # row 4's chosen frames
    with pytest.raises(ManifestError, match="line 5: .*same frames"):
        data.prepare(policy)


def test_config_instantiates(tmp_path, manifest):
    shipped = OmegaConf.load(Path(apo.data.pairs.__file__).parents[2] / "conf" / "data" / "pairs.yaml")
    config = OmegaConf.merge(shipped, {"path": str(manifest), "cache_dir": str(tmp_path / "c")})
    split = instantiate(config).prepare(FakePolicy())
    assert len(split.train) + len(split.validation) == 7
