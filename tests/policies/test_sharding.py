"""Sharded weights against whole ones: the same values, never more of them than a process's share."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from torch.distributed.device_mesh import init_device_mesh
from torch.testing import assert_close

from apo.distributed import all_gather, replica, share_pairs
from apo.guidance.none import NoGuidance
from apo.modules.optim import MismatchedExperts, average_gradients
from apo.policies.sharding import without_data
from apo.policies.wan import WanPolicy
from apo.solvers.ode import generate, initial_noise
from apo.sources.rollout import Rollout
from tests import ranks
from tests.aligning import pair_of, window
from tests.policies.test_wan import STYLES, inputs, make, perturbed

# of outputs and gradients: where weights lie in memory decides which kernels multiply them
CLOSE = {"float32": {"rtol": 1e-4, "atol": 1e-5}, "bfloat16": {"rtol": 5e-2, "atol": 3e-2}}


def asking(**folders: Path) -> SimpleNamespace:
    """Stands for pytest's request in another process."""
    return SimpleNamespace(getfixturevalue=lambda name: folders[name])


def sizes(parameters) -> int:
    return sum(p.numel() for p in parameters)


@STYLES
def test_types_are_those_of_from_pretrained(request, style):
    folder, dtype = request.getfixturevalue(f"{style}_folder"), torch.bfloat16
    theirs = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", dtype=dtype)
    ours = without_data(folder / "transformer", dtype)
    assert all(p.is_meta for p in ours.parameters())
    described = [{n: (p.shape, p.dtype) for n, p in m.named_parameters()} for m in (ours, theirs)]
    assert described[0] == described[1]
    for (name, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_waiting_for_its_weights_a_policy_has_the_same_adapter_and_can_be_whole_for_a_while(request, dtype, tmp_path):
    plain = make(request, "wan22", dtype=dtype)
    plain.save_adapter(tmp_path)
    waiting, plain = (
        make(request, "wan22", adapter=str(tmp_path), dtype=dtype, shard=shard) for shard in ("all", None)
    )
    x_t, t, cond = inputs(plain, "wan22", [950.0])
    for _ in range(2):
        for name, a, b in both(waiting, plain):
            assert a.is_meta if "lora_" not in name else torch.equal(a, b), name
            assert a.requires_grad == b.requires_grad and a.dtype == b.dtype
        with waiting.whole(), torch.no_grad():
            assert all(torch.equal(a, b) for _, a, b in both(waiting, plain))
            assert_close(waiting(x_t, t, cond), plain(x_t, t, cond), **CLOSE[dtype])


def both(ours: WanPolicy, theirs: WanPolicy) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name and values of each parameter of two policies."""
    pairs = zip(ours.experts.named_parameters(), theirs.experts.named_parameters(), strict=True)
    return [(name, a, b) for (name, a), (_, b) in pairs]


def compare(folder: Path, shape: tuple[int, ...], dtype: str, shared: int) -> None:
    """On every rank: the sharded policy's outputs are the whole one's, its weights a share of them."""
    request = asking(wan22_folder=folder)
    dist.init_process_group("gloo")
    plain, policy = (
        make(request, "wan22", dtype=dtype),
        make(request, "wan22", dtype=dtype, shard="all", context_parallel=shared),
    )
    share_pairs(shared)
    policy.shard(init_device_mesh("cpu", shape, mesh_dim_names=("group", "shard")[-len(shape) :]))
    x_t, t, cond = inputs(plain, "wan22", [950.0, 920.0])
    x_t = x_t + replica()
    with torch.no_grad():
        assert all(torch.equal(a.full_tensor(), b) for _, a, b in both(policy, plain))
        for t_ in (t, t - 500):
            assert_close(policy(x_t, t_, cond), plain(x_t, t_, cond), **CLOSE[dtype])
        noise = initial_noise(plain, [7, replica()])
        assert_close(*(generate(model, NoGuidance(), cond, noise) for model in (policy, plain)), **CLOSE[dtype])
    held = sizes(p.to_local() for p in policy.experts.parameters())
    total, whole = torch.tensor(held), sizes(plain.experts.parameters())
    dist.all_reduce(total)
    assert total == whole * dist.get_world_size() / shape[-1] and held < whole * 1.2 / shape[-1]
    for model in (plain, policy):
        for t, last in ((950.0, False), (940.0, True)):
            average_gradients(model.experts["transformer"], last)
            loss = model(x_t, torch.full((2,), t), cond).square().mean()
            (loss * model.context_parallel).backward()
    for name, a, b in both(policy, plain):
        assert (a.grad is None) == (b.grad is None), name
        if b.grad is not None:
            dist.all_reduce(b.grad)
            assert_close(a.grad.full_tensor(), b.grad / dist.get_world_size(), **CLOSE[dtype])


@pytest.mark.parametrize(
    "shape, dtype, shared",
    [((2,), "bfloat16", 1), ((2, 2), "float32", 1), ((2, 2), "float32", 2)],
    ids=["fsdp-bfloat16", "hsdp", "hsdp-shared-tokens"],
)
def test_sharded_equals_whole(wan22_folder, tmp_path, shape, dtype, shared):
    ranks.together(torch.Size(shape).numel(), tmp_path / "log", compare, wan22_folder, shape, dtype, shared)


def cache(folder: Path) -> None:
    """Ranks with videos of their own leave out the same blocks, and nothing is left out where every step changes
    enough.
    """
    dist.init_process_group("gloo")
    request = asking(wan22_folder=folder)
    plain, policy = perturbed(make(request, "wan22")), make(request, "wan22", shard="all")
    policy.shard(init_device_mesh("cpu", (2,)))
    cond = inputs(plain, "wan22", [950.0])[2]
    with torch.no_grad():
        for _, a, b in both(policy, plain):
            a.copy_(torch.distributed.tensor.distribute_tensor(b.detach(), a.device_mesh, a.placements))
    noise = [(5, dist.get_rank())]

    def rollout(model: WanPolicy, threshold: float | None) -> tuple[torch.Tensor, float]:
        settings = Rollout(NoGuidance(), num_inference_steps=8, cache_threshold=threshold)
        return settings(model, cond, noise), float(settings.meters["generate/blocks"])

    assert_close(rollout(policy, 1e-9)[0], rollout(plain, None)[0], **CLOSE["float32"])
    alone = {threshold: all_gather(rollout(plain, threshold)[1]) for threshold in torch.logspace(-2, 1, 25).tolist()}
    apart = [threshold for threshold, shares in alone.items() if shares[0] != shares[1]]
    for threshold in apart[:3]:
        one, other = all_gather(rollout(policy, threshold)[1])
        assert one == other >= max(alone[threshold]), threshold
    assert apart and rollout(policy, 1e9)[1] < 1


def test_ranks_leave_out_the_same_blocks(wan22_folder, tmp_path):
    ranks.together(2, tmp_path / "log", cache, wan22_folder)


class OfRank:
    """A sampler with the mistake: the second row's side of the expert boundary is the rank's own."""

    def sample(self, step: int, batch_size: int) -> torch.Tensor:
        return torch.tensor([[950.0], [950.0 - 100 * dist.get_rank()], [100.0]]).expand(-1, batch_size)


def mismatch(folder: Path) -> None:
    dist.init_process_group("gloo")
    request = asking(wan22_folder=folder)
    policy = make(request, "wan22", shard="all")
    pair = pair_of(policy)
    policy.shard(init_device_mesh("cpu", (2,)))
    own = [950.0, 850.0][dist.get_rank()]
    with pytest.raises(
        MismatchedExperts, match=rf"window row 1: ranks run different experts.* timesteps are \[{own}, {own}\]"
    ):
        window(policy, pair, OfRank())


def test_ranks_that_would_run_different_experts_are_stopped_before_the_first(wan22_folder, tmp_path):
    ranks.together(2, tmp_path / "log", mismatch, wan22_folder)
