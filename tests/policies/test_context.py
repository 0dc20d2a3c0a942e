"""Two processes that share the tokens of each forward against one that has all of them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing import assert_close

from apo.distributed import all_gather, rank, replica, replicas, share_pairs
from apo.guidance.cfg_stg import CFGSTG
from apo.guidance.none import NoGuidance
from apo.interfaces import Condition, Verdict
from apo.policies.context import require_divisible
from apo.policies.wan import WanPolicy
from apo.solvers.ode import generate, initial_noise
from apo.sources.ahead import AheadPairs
from apo.sources.online import OnlinePairs, RankerFailed
from apo.sources.rollout import Rollout
from tests import ranks
from tests.policies.test_sharding import CLOSE, asking, both
from tests.policies.test_wan import inputs, make, perturbed

STYLES = ("wan21", "wan22", "ti2v")


def sharing(request, style: str) -> WanPolicy:
    """A policy whose tokens both processes share."""
    policy = make(request, style, shard="all", context_parallel=2, checkpointing=True)
    policy.shard(init_device_mesh("cpu", (2,)))
    return policy


def compare(folders: dict[str, Path]) -> None:
    """Of each style: velocities, guided videos and gradients."""
    dist.init_process_group("gloo")
    share_pairs(2)
    assert (replica(), replicas()) == (0, 1)
    for style in STYLES:
        request = asking(**folders)
        plain, policy = perturbed(make(request, style)), sharing(request, style)
        with torch.no_grad():
            for _, a, b in both(policy, plain):
                if b.requires_grad:
                    a.copy_(torch.distributed.tensor.distribute_tensor(b.detach(), a.device_mesh, a.placements))
        x_t, t, cond = inputs(plain, style, [950.0, 920.0])
        seen = []
        policy.experts["transformer"].blocks[1].register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(given[0].shape[1])
        )
        with torch.no_grad():
            assert_close(policy(x_t, t, cond), plain(x_t, t, cond), **CLOSE["float32"])
            tokens = x_t[0, 0].numel() // 4
            assert seen == [tokens // 2]
            for batched in (True, False):
                guidance = CFGSTG(1.0, 1.0, plain.model.boundary, 1.0, [1], batched)
                videos = [generate(model, guidance, cond, initial_noise(plain, [3, 4])) for model in (policy, plain)]
                assert_close(*videos, rtol=1e-3, atol=1e-4)
            with (
                pytest.raises(
                    ValueError, match=r"guidance.blocks=\[0\]: trainer.context_parallel=2 divides the tokens"
                ),
                policy.skip([0]),
            ):
                pass
        for model in (plain, policy):
            model.train()
            (model(x_t, t, cond).square().mean() * model.context_parallel).backward()
        for name, a, b in both(policy, plain):
            if b.grad is not None:
                near = dict(rtol=1e-3, atol=1e-4 * float(b.grad.abs().max()))
                assert_close(
                    a.grad.full_tensor(), b.grad, **near, msg=lambda said, what=f"{style} {name}": f"{what}: {said}"
                )


def test_velocities_guided_videos_and_gradients_are_those_of_one_process(
    wan21_folder, wan22_folder, ti2v_folder, tmp_path
):
    folders = {"wan21_folder": wan21_folder, "wan22_folder": wan22_folder, "ti2v_folder": ti2v_folder}
    ranks.together(2, tmp_path / "log", compare, folders)


class Moody:
    """Its verdict hangs on which process asks, and it fails where it is told to."""

    def __init__(self, fails: bool = False):
        self.calls, self.fails = 0, fails

    def __call__(self, first: torch.Tensor, second: torch.Tensor, cond: Condition) -> Verdict:
        self.calls += 1
        if self.fails:
            raise ConnectionError("the server is gone")
        return Verdict(torch.full((len(first),), 1 + rank()), torch.ones(len(first)))


def generated(folder: Path) -> None:
    """Both processes have the same candidates and the same verdicts, for which one of them asked; and waiting ones
    travel once.
    """
    dist.init_process_group("gloo")
    share_pairs(2)
    request = asking(wan22_folder=folder)
    policy, plain = sharing(request, "wan22"), make(request, "wan22")
    cond = inputs(plain, "wan22", [950.0, 920.0])[2]
    settings = dict(rollout=Rollout(NoGuidance()), candidates=2, min_confidence=0.0, max_attempts=1, seed=0)
    for kind in (OnlinePairs, AheadPairs):
        ranker = Moody()
        pairs = kind(ranker=ranker, **settings)
        pair = pairs(cond, policy, 4)
        assert ranker.calls == (1 if rank() == 0 else 0)
        one, other = all_gather((pair.chosen, pair.rejected))
        assert all(torch.equal(a, b) for a, b in zip(one, other))
        for candidate, made in enumerate((pair.chosen, pair.rejected)):  # the first wins
            alone = Rollout(NoGuidance())(plain, cond, [(0, 4, place, candidate, 0) for place in range(2)])
            assert_close(made, alone, **CLOSE["float32"])
    waiting = pairs.state()
    assert (waiting is None) == (rank() > 0)  # rank 0 writes it for all
    if rank() == 0:
        assert waiting[0].shape[1] == len(waiting[1].prompt) == 2
    (waiting, _) = all_gather(waiting)  # as all read the file
    pairs.load(waiting)
    pairs.waiting = None
    assert torch.equal(pairs.left[0], waiting[0])
    again = pairs.state()  # stopped before the next step
    assert rank() > 0 or torch.equal(again[0], waiting[0])
    with pytest.raises(RankerFailed, match="on another rank" if rank() else "the server is gone"):
        OnlinePairs(Moody(fails=True), **settings)(cond, policy, 5)


def test_pairs_that_are_generated_are_the_same_on_both_and_one_asks_the_ranker(wan22_folder, tmp_path):
    ranks.together(2, tmp_path / "log", generated, wan22_folder)


@pytest.mark.parametrize(
    "degree, heads, tokens, said",
    [
        (3, 40, 83_700, "40 attention heads and a video 83,700 tokens, .*; give one of 1, 2, 4, 5, 10, 20, or"),
        (8, 40, 83_700, "trainer.context_parallel=8: the model has 40"),
        (2, 24, 27, "give one of 1, 3, or another model.spec"),
    ],
)
def test_heads_and_tokens_must_divide(degree, heads, tokens, said):
    with pytest.raises(ValueError, match=said):
        require_divisible(degree, heads, tokens)
    require_divisible(1, heads, tokens)


def test_a_policy_asks_before_it_is_filled(request):
    with pytest.raises(
        ValueError, match="trainer.context_parallel=3: the model has 2 attention heads and a video 18 tokens"
    ):
        make(request, "wan22", shard="all", context_parallel=3)
