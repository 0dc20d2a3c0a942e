"""Pairs one step ahead: whose they are, that nobody waits, that a resumed run goes on with those that waited."""

import threading

import pytest
import torch
from hydra.utils import instantiate
from torch.testing import assert_close

from apo.data.stream import StepBatches
from apo.guidance.none import NoGuidance
from apo.sources.ahead import AheadPairs
from apo.sources.online import OnlinePairs, RankerFailed
from apo.sources.rollout import Rollout
from tests.sources.conftest import adapted, composed
from tests.sources.rankers import BrighterWins


def settings(**changes) -> dict:
    return (
        dict(
            ranker=BrighterWins(),
            rollout=Rollout(NoGuidance()),
            candidates=2,
            min_confidence=0.0,
            max_attempts=3,
            seed=0,
        )
        | changes
    )


@pytest.fixture(scope="module")
def data(policy):
    split = instantiate(composed("stage=online").data).prepare(policy)
    return StepBatches(split.train, 2, 10, 0, 0, 1, split.order)


@pytest.fixture
def policies():
    """Before, during and after two optimizer steps, say."""
    return [adapted(instantiate(composed("stage=online").policy), seed) for seed in range(3)]


def test_a_pair_is_of_the_step_before_and_the_first_is_used_twice(policies, data):
    ahead, online = AheadPairs(**settings()), OnlinePairs(**settings())
    pairs = [ahead(data[step], policy, step) for step, policy in enumerate(policies)]
    for pair, of in zip(pairs, (0, 0, 1)):
        there = online(data[of], policies[of], of)
        assert_close(pair.chosen, there.chosen)
        assert_close(pair.rejected, there.rejected)
        assert pair.cond.prompt == data[of].prompt


def test_the_policy_does_not_wait_for_the_ranker(policy, data):
    class Slow(BrighterWins):
        """Looks at the second step's videos only once it is let."""

        def __call__(self, first, second, cond):
            if self.seen:
                assert let.wait(60)
            return super().__call__(first, second, cond)

    let, slow = threading.Event(), Slow()
    ahead = AheadPairs(**settings(ranker=slow))
    ahead(data[0], policy, 0)
    ahead(data[1], policy, 1)  # comes back although step 1's videos are not judged yet
    assert len(slow.seen) == 1
    let.set()
    ahead(data[2], policy, 2)
    assert slow.seen[:2] == [data[0].prompt, data[1].prompt]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_waits_travels_with_the_checkpoint(policies, data, ranks, tmp_path, monkeypatch):
    whole, stopped = AheadPairs(**settings()), AheadPairs(**settings())
    for pairs in (whole, stopped):
        for step in range(2):
            pairs(data[step], policies[step], step)
    torch.save(stopped.state(), tmp_path / "state.pt")
    monkeypatch.setattr("apo.sources.ahead.replicas", lambda: ranks)
    resumed = AheadPairs(**settings())
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=False))
    there, here = whole(data[2], policies[2], 2), resumed(data[2], policies[2], 2)
    size = 2 // ranks
    assert torch.equal(here.chosen, there.chosen[:size]) and torch.equal(here.rejected, there.rejected[:size])
    assert here.cond.prompt == there.cond.prompt[:size]


def test_a_failing_ranker_is_named_at_the_next_step_and_its_pairs_are_kept(policy, data):
    class Mortal(BrighterWins):
        def __call__(self, *args):
            if self.seen:
                raise ConnectionError("the server is gone")
            return super().__call__(*args)

    ahead = AheadPairs(**settings(ranker=Mortal()))
    ahead(data[0], policy, 0)
    ahead(data[1], policy, 1)
    waiting = ahead.state()
    with pytest.raises(RankerFailed, match="the server is gone.*the same command continues"):
        ahead(data[2], policy, 2)
    assert torch.equal(ahead.state()[0], waiting[0]) and ahead.state()[1].prompt == data[1].prompt


def test_no_pair_is_generated_anew():
    with pytest.raises(ValueError, match="module.pairs.min_confidence=0.6"):
        AheadPairs(**settings(min_confidence=0.6))
