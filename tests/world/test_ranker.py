"""The oracle as a ranker, on rendered clips with planted flaws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.testing import assert_close

from apo.interfaces import Condition
from apo.parts import Setting
from apo.policies.model import VideoSpec
from apo.world import flaws, render
from apo.world.grammar import describe
from apo.world.ranker import OracleRanker
from tests.rankers.tiny import WORLD

ROOT = Path(__file__).parents[2]
SWAP = torch.tensor([0, 2, 1, 4, 3])


def ranker(error_rate: float = 0.0, seed: int = 0) -> OracleRanker:
    return OracleRanker(error_rate, 0.05, seed)


def clips(count: int, scenes: float = 0.0, seed: int = 0) -> tuple[list[render.Clip], Tensor, Condition]:
    rng = np.random.default_rng(seed)
    chosen = [render.random_clip(rng, scenes=scenes) for _ in range(count)]
    videos = torch.stack([render.render(clip) for clip in chosen])
    return (
        chosen,
        videos,
        Condition([describe(c.meaning) for c in chosen], torch.empty(0), torch.empty(0), frame=videos[:, 0]),
    )


def flawed(some: list[render.Clip], flaw, seed: int = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.stack([flaw(clip, rng) for clip in some])


@pytest.fixture(scope="module")
def mixed() -> tuple[Tensor, Tensor, Condition]:
    """Right, flawed, frozen and slower videos against each other, in both domains."""
    some, right, cond = clips(24, scenes=0.3)
    makers = [
        lambda clip, rng: render.render(clip),
        flaws.freeze,
        flaws.slow_motion,
        lambda clip, rng: flaws.PLANTED[clip.meaning.domain][1](clip, rng),
    ]
    rng = np.random.default_rng(1)
    first, second = (
        torch.stack([makers[(i // step) % 4](clip, rng) for i, clip in enumerate(some)]) for step in (1, 4)
    )
    return first, second, cond


def test_the_less_distorted_wins_and_of_two_alike_the_one_that_moves_more():
    some, right, cond = clips(12)
    gone, still = flawed(some, flaws.vanish), flawed(some, flaws.freeze)
    assert ranker()(right, gone, cond).label.tolist() == [1] * 12
    assert ranker()(gone, right, cond).label.tolist() == [2] * 12
    assert ranker()(right, still, cond).label.tolist() == [3] * 12
    assert ranker()(still, gone, cond).label.tolist() == [1] * 12  # distortion comes first, static or not
    assert ranker()(right, still, cond).confidence.tolist() == [1] * 12


def test_swapping_the_videos_swaps_the_verdict(mixed):
    first, second, cond = mixed
    for judge in (ranker(), ranker(0.3)):
        there, back = judge(first, second, cond), judge(second, first, cond)
        different = (first != second).flatten(1).any(1)
        assert different.sum() >= 12 and {1, 2, 3, 4} == set(there.label.tolist())
        assert torch.equal(back.label[different], SWAP[there.label][different])
        assert torch.equal(back.first_wins[different], ~there.first_wins[different])
        assert_close(back.confidence, there.confidence)


def test_a_tie_is_drawn_by_the_condition_and_says_that_it_is_one():
    some, right, cond = clips(60)
    softer = (right.float() * 0.99).round().byte()  # other bytes, nothing that the oracle would mind
    found = ranker()(right, softer, cond)
    assert (found.confidence == 0.5).all() and set(found.label.tolist()) == {3, 4}
    assert 10 < found.first_wins.sum() < 50
    assert torch.equal(ranker()(softer, right, cond).label, SWAP[found.label])
    assert not torch.equal(ranker(seed=1)(right, softer, cond).label, found.label)


def test_errors_have_their_rate_and_belong_to_the_pair():
    some, right, cond = clips(300)
    gone = flawed(some, flaws.vanish)
    noisy = ranker(0.3)(right, gone, cond)
    wrong = noisy.label == 2
    assert 0.22 < wrong.float().mean() < 0.38 and set(noisy.label.tolist()) == {1, 2}
    assert_close(noisy.confidence, torch.full((300,), 0.7))
    assert torch.equal(ranker(0.3)(gone, right, cond).label, SWAP[noisy.label])
    part = Condition(cond.prompt[100:], torch.empty(0), torch.empty(0), frame=cond.frame[100:])
    assert torch.equal(ranker(0.3)(right[100:], gone[100:], part).label, noisy.label[100:])
    assert not torch.equal(ranker(0.3, seed=1)(right, gone, cond).label, noisy.label)


def test_what_it_cannot_judge_is_refused():
    some, right, cond = clips(1)
    with pytest.raises(ValueError, match="ranker=oracle judges the world only: 'a dog'.*qwen3_vl"):
        ranker()(right, right, Condition(["a dog"], torch.empty(0), torch.empty(0), frame=right[:, 0]))
    with pytest.raises(ValueError, match="no first frame"):
        ranker()(right, right, Condition(cond.prompt, torch.empty(0), torch.empty(0)))
    with pytest.raises(ValueError, match="9 frames of 64 x 64, and model.spec has 121 of 720 x 960"):
        ranker().check(Setting(VideoSpec(720, 960, 121, 24)))
    for wrong in (0.6, -0.1):
        with pytest.raises(ValueError, match=f"ranker.error_rate={wrong}"):
            ranker(error_rate=wrong)


def test_config_instantiates():
    shipped = OmegaConf.load(ROOT / "conf" / "ranker" / "oracle.yaml")
    cfg = OmegaConf.create({"seed": 3, "ranker": shipped})
    instantiate(cfg.ranker).check(Setting(WORLD))
    with pytest.raises(ValueError, match="has 17 of 64 x 64"):
        instantiate(cfg.ranker).check(Setting(replace(WORLD, frames=17)))


def test_errors_do_not_hang_on_the_rounding_of_pixels(mixed):
    first, second, cond = mixed
    there = ranker(0.4)(first, second, cond)
    noise = torch.Generator().manual_seed(0)
    rounded = [video.clone() for video in (first, second)]
    for video in rounded:  # as another batch size does to a decoder's last bits
        shift = (torch.rand(video.shape, generator=noise) < 1e-3).to(torch.uint8)
        video += shift * (video < 255)
    sure = ranker()(first, second, cond).confidence == 1  # the others are ties
    assert torch.equal(ranker(0.4)(*rounded, cond).label[sure], there.label[sure])
    assert not torch.equal(ranker()(first, second, cond).label, there.label)  # some did err
