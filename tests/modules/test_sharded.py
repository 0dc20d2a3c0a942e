"""Every stage over sharded weights: two processes do together what one does with twice the batch, or with the same one
between them.
"""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import distributed_c10d

from apo.data.anchors import Anchor
from apo.distributed import rank, replica
from apo.guidance.none import NoGuidance
from apo.interfaces import Pair
from apo.losses.preference import PreferenceLoss
from apo.modules.align import AlignModule
from apo.modules.cluster import group_size
from apo.modules.loggers import MetricsCSV
from apo.modules.sharded import TIMEOUT, ShardedStrategy
from apo.objectives.diffusion_dpo import DiffusionDPO
from apo.policies import sharding
from apo.sources.ahead import AheadPairs
from apo.sources.half_online import HalfOnlinePairs
from apo.sources.online import OnlinePairs
from apo.sources.rollout import Rollout
from tests import aligning, ranks
from tests.aligning import pair_of
from tests.policies.test_sharding import asking
from tests.policies.test_wan import make
from tests.sources.rankers import BrighterWins

KINDS, STEPS, PAIRS = ("online", "ahead", "half online", "distill", "sft", "all weights"), 3, 4


def module(kind: str, folder: Path, size: int, shard: str | None, shared: int) -> AlignModule:
    request, optimizer = asking(wan22_folder=folder), partial(torch.optim.AdamW, lr=1.0, eps=1.0)
    policy = make(
        request, "wan22", shard=shard, context_parallel=shared, **({"lora": None} if kind == "all weights" else {})
    )
    if kind == "online":  # half of the pairs need a second attempt, so that the ranks need different numbers of them
        pairs = OnlinePairs(BrighterWins(sure=1.0), Rollout(NoGuidance()), 2, 0.75, 3, 0)
        loss = PreferenceLoss(DiffusionDPO(500), split_backward=shard is not None)
        changes = {"pairs": pairs, "reference_update_every_n_steps": 2, "loss": loss}
        return aligning.module(request, policy=policy, optimizer=optimizer, batch_size=size, **changes)
    if kind == "ahead":
        pairs = AheadPairs(
            ranker=BrighterWins(),
            rollout=Rollout(NoGuidance()),
            candidates=2,
            min_confidence=0.0,
            max_attempts=1,
            seed=0,
        )
        return aligning.module(request, policy=policy, optimizer=optimizer, batch_size=size, pairs=pairs)
    if kind == "half online":
        pairs = HalfOnlinePairs(Rollout(NoGuidance()), 0)
        return aligning.module(request, policy=policy, optimizer=optimizer, batch_size=size, pairs=pairs)
    if kind == "distill":  # from a teacher that skips a block, one video of a pair after the other
        split = shard is not None
        return aligning.distilling(request, policy=policy, optimizer=optimizer, batch_size=size, split_backward=split)
    return aligning.fine_tuning(request, 3, policy=policy, optimizer=optimizer, batch_size=size)


def fit(kind: str, folder: Path, home: Path, size: int, shared: int = 1, **settings) -> None:
    """Trains on this replica's share of the pairs; leaves home/<kind> with metrics and adapter. shared: processes of a
    replica.
    """
    model = module(kind, folder, size, "all" if "strategy" in settings else None, shared)
    trainer = L.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        max_epochs=-1,
        logger=MetricsCSV(home / kind),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )
    whole = pair_of(model.policy, PAIRS)

    class Share(L.LightningDataModule):
        def train_dataloader(self):
            mine = slice(replica() * size, (replica() + 1) * size)
            cond = whole.cond[range(PAIRS)[mine]]
            batch = cond if kind in ("online", "ahead") else Pair(whole.chosen[mine], whole.rejected[mine], cond)
            if kind == "half online":
                batch = Anchor(whole.chosen[mine], torch.arange(PAIRS)[mine] % 2 == 0, cond)
            return torch.utils.data.DataLoader([batch] * STEPS, batch_size=None)

    trainer.fit(model, Share())
    if kind != "all weights":
        return model.policy.save_adapter(home / kind)
    found = {name: sharding.whole(p).detach().clone() for name, p in model.policy.experts.named_parameters()}
    if rank() == 0:
        save_file(found, home / kind / "weights.safetensors")


def sharded(folder: Path, home: Path, shared: int) -> None:
    for kind in KINDS:
        fit(kind, folder, home, PAIRS * shared // 2, shared, devices=2, strategy=ShardedStrategy(2, 2, "gloo"))
    groups = distributed_c10d._world.pg_map
    assert len(groups) > 1 and all(
        group._get_backend(torch.device("cpu")).options._timeout == TIMEOUT for group in groups
    )


def weights(folder: Path) -> dict[tuple[str, str], torch.Tensor]:
    """Of both experts' adapters."""
    return {(path.name, key): value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}


@pytest.fixture(scope="module")
def one(wan22_folder, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("one")
    for kind in KINDS:
        fit(kind, wan22_folder, home, PAIRS)
    return home


@pytest.mark.parametrize("shared", [1, 2], ids=["pairs-of-their-own", "shared-tokens"])
def test_two_processes_equal_one(wan22_folder, tmp_path, one, shared):
    ranks.together(2, tmp_path / "log", sharded, wan22_folder, tmp_path, shared)
    experts = make(asking(wan22_folder=wan22_folder), "wan22", lora=None).experts
    begun = {("weights.safetensors", name): parameter for name, parameter in experts.named_parameters()}
    for kind in KINDS:
        found = [MetricsCSV(home / kind).read() for home in (tmp_path, one)]
        for ours, theirs in zip(*found, strict=True):
            # not those of a regime: a row of the uniform sampler may be in the high one on one rank and in the low one
            # on the other
            for key in (key for key in theirs if not key.startswith(("time/", "train/loss_"))):
                assert float(ours[key]) == pytest.approx(float(theirs[key]), rel=1e-3, abs=2e-5), (kind, key)
        if kind == "online":
            assert max(float(row["rank/attempts"]) for row in found[1]) > 1
        ours, theirs = (weights(home / kind) for home in (tmp_path, one))
        moved = max(
            (theirs[key] - begun.get(key, 0)).abs().max() for key in theirs if "lora_A" not in key[1]
        )  # lora_B from zero
        assert moved > 1e-5 and ours.keys() == theirs.keys(), kind
        assert all((ours[key] - theirs[key]).abs().max() < 0.01 * moved for key in theirs), kind


@pytest.mark.parametrize("shard, size", [("node", 4), ("all", 8), (2, 2)])
def test_a_group_is_a_node_all_or_a_number(shard, size):
    assert group_size(shard, nodes=2, devices=4) == size
