"""`data=world_pairs`: made by the baseline, labelled by the oracle, resumable."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load

from apo.config.compose import compose
from apo.parts import Setting
from apo.policies.wan import WanPolicy
from apo.world import verdicts
from apo.world.build.verdicts import verdicts_of
from apo.world.oracle import measure

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    cfg = compose("train", ["data.count=4", "data.batch_size=8", "model.num_inference_steps=8", "policy.lora.rank=2"])
    cfg.data.cache_dir = str(tmp_path_factory.mktemp("cache"))
    policy: WanPolicy = instantiate(cfg.policy)
    return cfg, policy, instantiate(cfg.data).prepare(policy).train


def test_chosen_is_clean_and_rejected_distorted(setting):
    _, policy, pairs = setting
    assert len(pairs) == 4
    pair = pairs.collate([pairs[i] for i in range(4)])
    verdicts = [
        measure(policy.decode(x), pair.cond.prompt, pair.cond.frame).distorted for x in (pair.chosen, pair.rejected)
    ]
    assert not verdicts[0].any() and verdicts[1].all()


def test_they_come_from_the_base_model_and_from_the_cache(setting, monkeypatch):
    cfg, policy, pairs = setting
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 1.0
    source = instantiate(cfg.data)
    monkeypatch.setattr(source, "make", lambda *_: pytest.fail("the cache was not used"))
    assert source.prepare(policy).train.files == pairs.files


def test_known_verdicts_give_the_same_pairs_without_a_decoded_video(setting, monkeypatch, tmp_path):
    cfg, policy, pairs = setting
    source = instantiate(cfg.data, cache_dir=str(tmp_path))
    name, batches = source.folder(policy).name, list(verdicts_of(source, policy))
    verdicts.write(tmp_path / "verdicts.json", name, batches)
    monkeypatch.setattr(verdicts, "FILE", tmp_path / "verdicts.json")
    monkeypatch.setattr(policy, "decode", lambda _: pytest.fail("a video was decoded"))
    again = source.prepare(policy).train
    assert [path.name for path in again.files] == [path.name for path in pairs.files]
    for path, other in zip(again.files, pairs.files):
        new, old = load(path.read_bytes()), load(other.read_bytes())
        assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)
    assert verdicts.known(name, len(batches)) is None and verdicts.known("another", 0) is None


def test_the_shipped_verdicts_are_the_oracles_and_reach_the_last_of_the_default_pairs():
    cfg = compose("train")
    policy, data = instantiate(cfg.policy), instantiate(cfg.data)
    shipped = json.loads(verdicts.FILE.read_text())[data.folder(policy).name]
    assert torch.equal(next(verdicts_of(data, policy)), verdicts.of_text(shipped[0]))
    mixed = [int((first != second).sum()) for first, second in map(verdicts.of_text, shipped)]
    assert sum(mixed[:-1]) < data.count <= sum(mixed)


def test_an_interrupted_build_goes_on_to_the_same_pairs(setting):
    cfg, policy, pairs = setting
    source = instantiate(cfg.data)
    folder = source.folder(policy)
    before = {path.name: (path.read_bytes()) for path in pairs.files}
    last = sorted(folder.glob("batch_*.json"))[-1]
    last.unlink()
    sorted(folder.glob("*-pair.safetensors"))[-1].unlink()
    for expert in policy.experts.values():
        for name, parameter in expert.named_parameters():
            if ".policy." in name and "lora_B" in name:
                parameter.data.zero_()
    again = source.prepare(policy).train
    assert [path.name for path in again.files] == [path.name for path in pairs.files]
    for path in again.files:
        old, new = load(before[path.name]), load(path.read_bytes())
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_damaged_files_of_the_cache_are_made_anew_and_said(setting, capsys):
    cfg, policy, pairs = setting
    folder = instantiate(cfg.data).folder(policy)
    before = {path.name: path.read_bytes() for path in pairs.files}
    victim, lists = pairs.files[1], sorted(folder.glob("batch_*.json"))
    damaged = bytearray(before[victim.name])
    damaged[-3] ^= 1  # in a tensor: the header is sound
    for path, content, said in [
        (victim, damaged, "its bytes are not those that were written; its batch is made anew"),
        (lists[-1], b"[", "its bytes are not those that were written; it is made anew"),
        (folder / "world.sha256", b"\xff\x00 5", ""),
    ]:
        path.write_bytes(content)
        capsys.readouterr()
        again = instantiate(cfg.data).prepare(policy).train
        assert (
            [path.name for path in again.files] == [*before]
            and f"{path}: {said}" in capsys.readouterr().out
            or not said
        )
        for path in again.files:
            old, new = load(before[path.name]), load(path.read_bytes())
            assert all(torch.equal(old[key], new[key]) for key in old)


def test_the_starting_adapter_can_make_them_instead(setting, tmp_path):
    cfg, policy, pairs = setting
    with pytest.raises(Exception, match="there is no adapter to start from; give adapter=FOLDER"):
        instantiate(cfg.data, generator="start")
    trained: WanPolicy = instantiate(cfg.policy)
    for name, parameter in trained.experts.named_parameters():
        if ".policy." in name and "lora_B" in name:
            parameter.data.fill_(0.003)
    trained.save_adapter(tmp_path)
    student: WanPolicy = instantiate(cfg.policy, adapter=str(tmp_path))
    made = instantiate(cfg.data, generator="start", adapter=str(tmp_path)).prepare(student).train
    assert made.files[0].parent != pairs.files[0].parent
    pair, theirs = (data.collate([data[i] for i in range(2)]) for data in (made, pairs))
    assert not torch.equal(pair.chosen, theirs.chosen)
    verdicts = [
        measure(student.decode(x), pair.cond.prompt, pair.cond.frame).distorted for x in (pair.chosen, pair.rejected)
    ]
    assert not verdicts[0].any() and verdicts[1].all()


def test_what_is_hopeless_ends(setting, monkeypatch):
    cfg, policy, _ = setting
    source = instantiate(cfg.data, seed=7)
    monkeypatch.setattr(source, "make", lambda *_: [])
    with pytest.raises(RuntimeError, match="208 conditions gave 0 of 4 for data=world_pairs"):
        source.prepare(policy)


def test_other_sizes_are_refused(setting):
    cfg, policy, _ = setting
    spec = type(policy.spec)(32, 64, 17, 8)
    with pytest.raises(ValueError, match="data=world_pairs needs videos of the world"):
        instantiate(cfg.data).check(Setting(spec))
