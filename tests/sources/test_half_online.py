"""Half-online pairs, and the world's anchors for them: made by the baseline, sorted by the oracle, resumable."""

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors.torch import load_file
from torch.testing import assert_close

from apo.data.anchors import Anchor
from apo.guidance.none import NoGuidance
from apo.sources.half_online import HalfOnlinePairs
from apo.sources.rollout import Rollout
from apo.world import flaws, render
from apo.world.anchors import WorldAnchors, sorted_out
from apo.world.grammar import describe
from apo.world.oracle import measure
from tests.sources.conftest import composed


@pytest.fixture(scope="module")
def anchors(policy, tmp_path_factory):
    """Config and split of ten anchors: six positive, three mismatched, one distorted."""
    cfg = composed("stage=half_online", "model.num_inference_steps=8", "data.count=10", "data.batch_size=8")
    cfg.data.cache_dir = str(tmp_path_factory.mktemp("cache"))
    policy.model = instantiate(cfg.model)
    return cfg, instantiate(cfg.data).prepare(policy)


def batch_of(split, positions=range(5)) -> Anchor:
    data = split.train
    return data.collate([data[split.order(data, 0, position)] for position in positions])


def test_the_order_of_a_pair_follows_its_anchors_label(policy, anchors):
    batch = batch_of(anchors[1])
    assert batch.positive.any() and not batch.positive.all()
    source = HalfOnlinePairs(Rollout(NoGuidance()), seed=3)
    pair = source(batch, policy, 7)
    made = Rollout(NoGuidance())(policy, batch.cond, [(3, 7, i) for i in range(5)])
    for i, positive in enumerate(batch.positive.tolist()):
        anchor, generated = (pair.chosen, pair.rejected) if positive else (pair.rejected, pair.chosen)
        assert torch.equal(anchor[i], batch.video[i])
        assert_close(generated[i], made[i], atol=1e-4, rtol=1e-4)
    assert pair.cond is batch.cond
    turned = source(Anchor(batch.video, ~batch.positive, batch.cond), policy, 7)
    assert torch.equal(turned.chosen, pair.rejected) and torch.equal(turned.rejected, pair.chosen)


def test_the_counterpart_is_the_active_policys_and_of_the_step(policy, anchors):
    batch = batch_of(anchors[1])
    source = HalfOnlinePairs(Rollout(NoGuidance(), batch_size=2), seed=3)
    one = source(batch, policy, 7).rejected[batch.positive]
    assert torch.equal(source(batch, policy, 7).rejected[batch.positive], one)
    assert (source(batch, policy, 8).rejected[batch.positive] - one).abs().max() > 0.1
    with policy.reference():
        assert (source(batch, policy, 7).rejected[batch.positive] - one).abs().max() > 0.01
    assert source.meters.keys() == {"time/generate", "rank/positive", "generate/blocks"}
    assert_close(source.meters["rank/positive"], batch.positive.float().mean())


def test_a_ranks_counterparts_are_those_of_its_place_in_the_batch(policy, anchors, monkeypatch):
    batch, source = batch_of(anchors[1], range(4)), HalfOnlinePairs(Rollout(NoGuidance(), batch_size=2), seed=3)
    whole = source(batch, policy, 7)
    half = batch_of(anchors[1], range(2, 4))
    monkeypatch.setattr("apo.sources.half_online.replica", lambda: 1)
    pair = source(half, policy, 7)
    assert_close(pair.chosen, whole.chosen[2:], atol=1e-4, rtol=1e-4)
    assert_close(pair.rejected, whole.rejected[2:], atol=1e-4, rtol=1e-4)


def test_world_anchors_are_what_their_labels_say(policy, anchors):
    data = anchors[1].train
    batch = data.collate([data[i] for i in range(len(data))])
    found = measure(policy.decode(batch.video), batch.cond.prompt, batch.cond.frame)
    positive = batch.positive
    assert positive.sum() == 6 and not found.distorted[positive].any() and found.followed[positive].all()
    assert found.distorted[~positive].sum() == 1
    assert (~found.followed & ~found.distorted)[~positive].sum() == 3
    assert batch.cond.domain == ["scene" if "camera" in prompt else "digit" for prompt in batch.cond.prompt]


def test_videos_are_sorted_by_what_they_show():
    rng = np.random.default_rng(0)
    clip = render.random_clip(rng, scenes=0.0)
    videos = torch.stack(
        [render.render(clip), flaws.misdirect(clip, rng), flaws.freeze(clip, rng), flaws.vanish(clip, rng)]
    )
    found = measure(videos, [describe(clip.meaning)] * 4, videos[:, 0])
    assert sorted_out(found, redirected=False) == ["positive", "mismatched", "mismatched", "distorted"]
    assert sorted_out(found, redirected=True) == [None, "mismatched", "mismatched", None]


def test_world_anchors_come_from_the_cache_and_an_interrupted_build_goes_on(policy, anchors, monkeypatch):
    cfg, split = anchors
    source: WorldAnchors = instantiate(cfg.data)
    before = {file.name: load_file(file) for file in split.train.files}
    with monkeypatch.context() as patch:
        patch.setattr(source, "make", lambda *_: pytest.fail("the cache was not used"))
        assert source.prepare(policy).train.files == split.train.files
    folder = source.folder(policy)
    last = sorted(folder.glob("batch_*.json"))[-1]
    last.unlink()
    for file in folder.glob(f"{last.stem.removeprefix('batch_')}_*"):
        file.unlink()
    again = source.prepare(policy).train
    assert again.files == split.train.files and again.places == split.train.places
    for file in again.files:
        assert all(torch.equal(before[file.name][key], value) for key, value in load_file(file).items())


@pytest.mark.parametrize(
    "setting, said",
    [
        ("distorted_share=2", "data.distorted_share=2"),
        ("positive_share=-1", "data.positive_share=-1"),
        ("count=1", "data.positive_share=0.6, but none of the 1 anchors is labelled 'negative'"),
    ],
)
def test_settings_are_checked(setting, said):
    cfg = composed("stage=half_online", f"data.{setting}")
    with pytest.raises(InstantiationException) as raised:
        instantiate(cfg.data)
    assert said in str(raised.value.__cause__)
