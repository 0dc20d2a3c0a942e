"""Online pairs from the shipped baseline: seeds, who wins, confidence, ranks, a ranker that fails."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra.utils import instantiate
from torch.testing import assert_close

from apo.data.stream import StepBatches
from apo.guidance.cfg import CFG
from apo.guidance.none import NoGuidance
from apo.interfaces import Verdict
from apo.sources.online import OnlinePairs, RankerFailed
from apo.sources.rollout import Rollout
from apo.world.oracle import measure
from apo.world.ranker import OracleRanker
from tests.sources.conftest import adapted, composed
from tests.sources.rankers import BrighterWins, brightness


def source(**changes) -> OnlinePairs:
    settings = dict(
        ranker=BrighterWins(), rollout=Rollout(NoGuidance()), candidates=2, min_confidence=0.0, max_attempts=3, seed=0
    )
    return OnlinePairs(**(settings | changes))


@pytest.fixture(scope="module")
def batch(policy):
    return batches(policy, 3)[0]


def batches(policy, size: int, rank: int = 0, world: int = 1) -> StepBatches:
    split = instantiate(composed("stage=online").data).prepare(policy)
    return StepBatches(split.train, size, 10, 0, rank, world, split.order)


def test_candidates_come_from_the_active_policy_and_are_not_encoded_again(policy, batch):
    pair = source()(batch, policy, 5)
    keys = [[(0, 5, i, candidate, 0) for i in range(3)] for candidate in range(2)]
    made = torch.stack([Rollout(NoGuidance())(policy, batch, some) for some in keys])
    for i in range(3):
        chosen, rejected = (
            which(range(2), key=lambda c: brightness(policy.decode(made[c, i, None]))[0]) for which in (max, min)
        )
        assert_close(pair.chosen[i], made[chosen, i], atol=1e-4, rtol=1e-4)
        assert_close(pair.rejected[i], made[rejected, i], atol=1e-4, rtol=1e-4)
    assert pair.cond is batch and not pair.chosen.requires_grad
    with policy.reference():
        assert (source()(batch, policy, 5).chosen - pair.chosen).abs().max() > 0.01


def test_a_step_generates_the_same_again_and_another_step_something_else(policy, batch):
    pair = source()(batch, policy, 5)
    again, other, seed = source()(batch, policy, 5), source()(batch, policy, 6), source(seed=1)(batch, policy, 5)
    assert torch.equal(again.chosen, pair.chosen) and torch.equal(again.rejected, pair.rejected)
    assert min((x.chosen - pair.chosen).abs().max() for x in (other, seed)) > 0.1
    few_at_once = source(rollout=Rollout(NoGuidance(), batch_size=2))(batch, policy, 5)
    assert_close(few_at_once.chosen, pair.chosen, atol=1e-4, rtol=1e-4)


def test_the_training_mode_and_the_frozen_parts_are_left_as_they_were(policy, batch):
    policy.train()
    assert not any(module.training for module in policy.codec.modules())  # the text encoder has dropout
    source()(batch, policy, 0)
    assert policy.training and policy.experts.training
    policy.eval()
    source()(batch, policy, 0)
    assert not policy.training


def test_the_guidance_of_the_candidates_is_the_sources_own(policy, batch):
    plain, guided = source()(batch, policy, 1), source(rollout=Rollout(CFG(0.5, 0.5, 0.9)))(batch, policy, 1)
    assert (plain.chosen - guided.chosen).abs().max() > 0.01


def test_swapping_the_candidates_swaps_the_verdict_and_leaves_the_pair(policy, batch):
    latents = torch.stack([Rollout(NoGuidance())(policy, batch, [(9, i, c) for i in range(3)]) for c in range(2)])
    videos = torch.stack([policy.decode(x) for x in latents])
    settings = dict(similar=0.05, seed=0)
    for ranker in (OracleRanker(error_rate=0.0, **settings), OracleRanker(error_rate=0.4, **settings), BrighterWins()):
        there, back = (ranker(*some, batch) for some in (videos, videos.flip(0)))
        assert torch.equal(there.first_wins, ~back.first_wins)
        one, other = (
            source(ranker=ranker).judge(x, v, batch) for x, v in ((latents, videos), (latents.flip(0), videos.flip(0)))
        )
        for name in vars(one):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_of_many_candidates_the_best_and_the_worst_make_the_pair(policy, batch):
    ranker = BrighterWins()
    pair = source(ranker=ranker, candidates=4)(batch, policy, 2)
    assert len(ranker.seen) == 6
    made = [Rollout(NoGuidance())(policy, batch, [(0, 2, i, candidate, 0) for i in range(3)]) for candidate in range(4)]
    light = torch.stack([brightness(policy.decode(x)) for x in made])
    assert_close(brightness(policy.decode(pair.chosen)), light.amax(0), atol=0.05, rtol=0)
    assert_close(brightness(policy.decode(pair.rejected)), light.amin(0), atol=0.05, rtol=0)


def test_wins_count_by_confidence_and_no_confidence_still_makes_a_pair(policy, batch):
    class Table:
        """Candidate 0 beats 1 surely and loses to 2 by a hair, 1 beats 2 by half."""

        def __init__(self, confidence):
            self.answers = iter([(1, confidence[0]), (2, confidence[1]), (1, confidence[2])])  # 0-1, 0-2, 1-2

        def __call__(self, first, second, cond):
            label, confidence = next(self.answers)
            return Verdict(torch.full((3,), label), torch.full((3,), confidence))

    latents = torch.arange(3.0).view(3, 1, 1, 1, 1, 1).expand(3, 3, 1, 1, 1, 1)
    videos = torch.zeros(3, 3, 1, 1, 1, 1, dtype=torch.uint8)
    judged = source(ranker=Table((1.0, 0.1, 0.5))).judge(latents, videos, batch)  # wins 1.0, 0.5, 0.1
    assert judged.chosen.flatten().tolist() == [0, 0, 0] and judged.rejected.flatten().tolist() == [2, 2, 2]
    assert judged.label.tolist() == [2, 2, 2]
    assert_close(judged.confidence, torch.full((3,), 0.9))  # the direct comparison says otherwise, with 0.1
    nothing = source(ranker=Table((0.0, 0.0, 0.0))).judge(latents, videos, batch)
    assert (nothing.chosen != nothing.rejected).all()


def test_pairs_without_confidence_are_replaced_and_the_others_kept(policy, batch):
    def judged(**changes):
        pairs = source(ranker=BrighterWins(sure=3.0), **changes)
        return pairs(batch, policy, 3), pairs.meters

    def confidence(pair):
        return 0.5 + 0.5 * (
            (brightness(policy.decode(pair.chosen)) - brightness(policy.decode(pair.rejected))) / 3
        ).clamp(max=1)

    attempts = []
    for attempt in range(4):
        pairs = source(ranker=BrighterWins(sure=3.0))
        attempts.append(pairs.attempt(batch, policy, 3, attempt, range(3)).confidence)
    attempts = torch.stack(attempts)
    least = float(attempts[0].sort().values[1]) + 1e-4  # two of three are below
    replaced, meters = judged(min_confidence=least, max_attempts=4)
    kept, _ = judged()
    sure = attempts[0] >= least
    assert sure.sum() == 1 and torch.equal(replaced.chosen[sure], kept.chosen[sure])
    reached = [next((a for a in column.tolist() if a >= least), column.max().item()) for column in attempts.T]
    assert_close(confidence(replaced).float(), torch.tensor(reached), atol=0.02, rtol=0)
    assert 2 <= meters["rank/attempts"] <= 4 and len(replaced.chosen) == 3
    hopeless, meters = judged(min_confidence=1.0, max_attempts=4)
    assert (attempts.amax(0) < 1).any() and meters["rank/attempts"] == 4
    assert_close(confidence(hopeless).float(), attempts.amax(0), atol=0.02, rtol=0)


def test_what_took_time_and_how_sure_the_ranker_was_are_metered(policy, batch):
    settings = composed("stage=online")
    pairs = source(ranker=instantiate(settings.ranker))
    pair = pairs(batch, policy, 0)
    assert pairs.meters.keys() == {
        "generate/blocks",
        "time/generate",
        "time/rank",
        "rank/confidence",
        "rank/distortion",
        "rank/attempts",
    }
    assert pairs.meters["time/generate"] > pairs.meters["time/rank"] > 0
    chosen, rejected = (
        measure(policy.decode(x), batch.prompt, batch.frame).severity for x in (pair.chosen, pair.rejected)
    )
    assert (chosen <= rejected + 0.05).all()
    assert_close(pairs.meters["rank/distortion"], (rejected - chosen > 0.05).float().mean())


class Broken:
    def check(self) -> None: ...

    def __call__(self, first, second, cond):
        raise ConnectionError("the server is gone")


def test_a_ranker_that_fails_is_named(policy, batch):
    policy.train()
    with pytest.raises(RankerFailed, match="ConnectionError: the server is gone.*the same command continues"):
        source(ranker=Broken())(batch, policy, 0)
    assert policy.training


def test_a_verdict_that_is_none_is_a_failure_of_the_ranker(policy, batch):
    class Fifth(BrighterWins):
        def __call__(self, first, second, cond):
            return Verdict(torch.full((len(first),), 5), torch.ones(len(first)))

    with pytest.raises(RankerFailed, match="gave label 5 where one of 1, 2, 3, 4"):
        source(ranker=Fifth())(batch, policy, 0)


@pytest.mark.parametrize("key, value", [("candidates", 1), ("min_confidence", 1.5), ("max_attempts", 0)])
def test_settings_are_checked(key, value):
    with pytest.raises(ValueError, match=f"module.pairs.{key}={value}"):
        source(**{key: value})


def as_rank(rank: int, folder) -> None:
    """One of two processes: pairs of its half of the batch, of which some need other numbers of attempts; then a
    failure.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    policy = adapted(instantiate(composed("stage=online").policy))
    ranker = BrighterWins(sure=3.0)
    pairs = source(ranker=ranker, min_confidence=0.9, max_attempts=3, rollout=Rollout(NoGuidance(), batch_size=2))
    batch = batches(policy, 2, rank, 2)[0]
    pair = pairs(batch, policy, 0)
    torch.save((pair.chosen, pair.rejected, batch.prompt, ranker.seen), folder / f"{rank}.pt")
    with pytest.raises(RankerFailed, match="on another rank" if rank else "the server is gone"):
        source(ranker=BrighterWins() if rank else Broken())(batch, policy, 1)
    dist.destroy_process_group()


def test_two_ranks_rank_disjoint_conditions_and_make_the_pairs_of_one(policy, tmp_path):
    mp.spawn(as_rank, (tmp_path,), nprocs=2)
    (one, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    batch = batches(policy, 4)[0]
    assert one[2] + other[2] == batch.prompt and len(set(batch.prompt)) == 4
    assert {p for call in one[3] for p in call} == set(one[2]) and {p for call in other[3] for p in call} == set(
        other[2]
    )
    assert [len(call) for call in one[3]] == [len(call) for call in other[3]]  # as many videos on each, in every round
    pairs = source(
        ranker=BrighterWins(sure=3.0), min_confidence=0.9, max_attempts=3, rollout=Rollout(NoGuidance(), batch_size=2)
    )
    weak = (pairs.attempt(batch, policy, 0, 0, range(4)).confidence < 0.9).view(2, 2).sum(1)
    assert weak[0] != weak[1]  # one rank generates more than it needs
    whole = pairs(batch, policy, 0)
    assert_close(torch.cat([one[0], other[0]]), whole.chosen, atol=1e-3, rtol=1e-3)
    assert_close(torch.cat([one[1], other[1]]), whole.rejected, atol=1e-3, rtol=1e-3)
