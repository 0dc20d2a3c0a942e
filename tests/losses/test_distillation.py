"""stage=distill on a real policy with random weights: it learns the guided prediction, and resumes exactly."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch.testing import assert_close

from apo.checks import ConfigError, check
from apo.config.compose import compose
from apo.flow import noised
from apo.guidance.cfg import CFG
from apo.losses.distillation import DistillationLoss
from apo.modules.align import AlignModule
from apo.run import train
from tests.aligning import distilling, fit, pair_of, window
from tests.clips import write_manifest
from tests.dying import dies_and_resumes
from tests.policies.test_wan import make, perturbed
from tests.test_train import adapter, metrics

ROOT = Path(__file__).parents[2]


def test_the_first_loss_is_what_guidance_adds_and_it_falls_in_both_experts(request, tmp_path):
    model = distilling(request)
    pair = pair_of(model.policy)
    before = {k: v.clone() for k, v in model.policy.named_parameters()}
    with torch.no_grad():
        errors = []
        for row in window(model.policy, pair, model.window.sampler):
            for x_0 in (pair.chosen, pair.rejected):
                x_t = noised(x_0, row.noise, row.t)
                guided = model.loss.distill.guidance(model.policy, x_t, row.t, pair.cond)
                errors.append((guided - model.policy(x_t, row.t, pair.cond)).square().mean())
    rows = fit(model, pair, 40, tmp_path)
    assert_close(float(rows[0]["train/loss"]), float(torch.stack(errors).mean()), rtol=1e-3, atol=1e-6)
    for key in ("train/loss_high", "train/loss_low"):
        first, last = (sum(float(row[key]) for row in part) for part in (rows[:5], rows[-5:]))
        assert last < 0.7 * first, key
    moved = {k for k, v in model.policy.named_parameters() if not torch.equal(v, before[k])}
    assert all(".policy." in k for k in moved)
    assert any(".transformer." in k for k in moved) and any(".transformer_2." in k for k in moved)
    assert all(float(row["time/teacher"]) > 0 and float(row["time/optimize"]) > 0 for row in rows)


def test_a_teacher_without_strength_has_nothing_to_teach(request, tmp_path):
    (row,) = fit(distilling(request, CFG(0.0, 0.0, 0.9)), pair_of(make(request, "wan22")), 1, tmp_path)
    assert float(row["train/loss"]) == 0 and float(row["train/grad_norm"]) == 0


def test_rejected_videos_are_left_out_when_asked(request):
    policy = make(request, "wan22")
    pair, teacher = pair_of(policy), distilling(request, policy=policy).loss.distill
    ((x_0, cond),) = DistillationLoss(teacher, rejected=False).batches(pair)
    assert torch.equal(x_0, pair.chosen) and cond.prompt == pair.cond.prompt
    ((x_0, cond),) = DistillationLoss(teacher, rejected=True).batches(pair)
    assert torch.equal(x_0, torch.cat([pair.chosen, pair.rejected])) and cond.prompt == pair.cond.prompt * 2


def test_the_teacher_sees_a_pairs_videos_at_one_noise_and_timestep(request):
    model = distilling(request)
    pair, t = pair_of(model.policy), torch.tensor([950.0, 940.0])
    ((x_0, cond),) = model.loss.batches(pair)
    noise = torch.randn(pair.chosen.shape, generator=torch.Generator().manual_seed(0))
    x_t, times, cond, target = model.loss.taught(model.policy, x_0, cond, t, noise, model.loss.distill.guidance)
    assert torch.equal(x_t[:2], noised(pair.chosen, noise, t)) and torch.equal(x_t[2:], noised(pair.rejected, noise, t))
    assert times.tolist() == [950.0, 940.0] * 2 and len(cond.prompt) == len(target) == 4


def test_in_turn_the_gradients_are_the_same(request, tmp_path):
    found = {}
    for split in (False, True):
        model = distilling(request, split_backward=split)
        perturbed(model.policy)
        rows = fit(model, pair_of(model.policy), 2, tmp_path / str(split))
        found[split] = rows, [p.detach() for p in model.policy.parameters() if p.requires_grad]
    for ours, theirs in zip(*(rows for rows, _ in found.values()), strict=True):
        for key in ("train/loss", "train/loss_high", "train/loss_low", "train/grad_norm"):
            assert_close(float(ours[key]), float(theirs[key]), rtol=1e-4, atol=1e-6)
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(*(weights for _, weights in found.values())))


def test_blocks_alone_learn_when_asked(request):
    trained = {name for name, p in distilling(request, blocks=[1]).policy.named_parameters() if p.requires_grad}
    every = {name for name, p in distilling(request).policy.named_parameters() if p.requires_grad}
    assert trained == {name for name in every if ".blocks.1." in name} and 0 < len(trained) < len(every)
    with pytest.raises(ValueError, match=r"module.blocks=\[7\] leaves nothing to train"):
        distilling(request, blocks=[7])


def test_held_out_errors_start_alike_and_the_teachers_stays(request):
    model = distilling(request)
    pair, t = pair_of(model.policy), torch.tensor([500.0, 500.0])
    noise = torch.randn(pair.chosen.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model.loss.held_out(model.policy, pair, t, noise)
        assert_close(first["loss"], first["undistilled"])
        perturbed(model.policy)
        later = model.loss.held_out(model.policy, pair, t, noise)
    assert torch.equal(later["undistilled"], first["undistilled"]) and not torch.equal(later["loss"], first["loss"])


def test_in_turn_held_out_errors_are_the_same_from_half_the_videos_at_once(request):
    model = distilling(request)
    perturbed(model.policy)
    pair, t, asked = pair_of(model.policy), torch.tensor([950.0, 940.0]), []
    noise = torch.randn(pair.chosen.shape, generator=torch.Generator().manual_seed(0))
    model.policy.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    found, largest = [], []
    for model.loss.split_backward in (False, True):
        asked.clear()
        with torch.no_grad():
            found.append(model.loss.held_out(model.policy, pair, t, noise))
        largest.append(max(asked))
    assert largest[1] * 2 == largest[0]
    assert_close(*found)


@pytest.fixture(scope="module")
def home(tmp_path_factory, wan22_folder):
    """A folder with a finished offline run `aligned`, and what a run needs: model and manifest."""
    home = tmp_path_factory.mktemp("distill")
    write_manifest(home / "data", 4)
    home.joinpath("model").symlink_to(wan22_folder)
    train(config(home, "stage=offline", "max_steps=1"), home / "aligned")
    return home


def config(home: Path, *more: str) -> DictConfig:
    return compose(
        "train",
        [
            f"model.path={home}/model",
            "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
            "model.num_inference_steps=4",
            "data=pairs",
            f"data.path={home}/data/manifest.jsonl",
            f"data.cache_dir={home}/cache",
            "data.validation_fraction=0.3",
            "max_steps=6",
            "checkpoint_every_n_steps=2",
            "sample_every_n_steps=3",
            "validate_every_n_steps=3",
            "batch_size=2",
            "policy.lora.rank=2",
            "trainer.threads=1",
            "logger=csv",
            *more,
        ],
    )


def test_a_run_that_dies_resumes_exactly_and_says_what_it_came_from(home):
    overrides = ["stage=distill", f"adapter={home}/aligned/adapter", "distill.omega=[0.5,2.5]", "distill.lambda_=[0,1]"]
    train(config(home, *overrides), home / "one")
    dies_and_resumes(AlignModule, lambda folder: train(config(home, *overrides), folder), home / "other")
    rows = metrics(home / "one")
    assert metrics(home / "other") == rows and len(rows) == 6
    assert adapter(home / "other") == adapter(home / "one") and len(adapter(home / "one")) == 2
    assert rows[2]["val/loss"] and rows[2]["val/undistilled"] == rows[5]["val/undistilled"] and not rows[1]["val/loss"]
    lineage = json.loads((home / "one" / "adapter" / "lineage.json").read_text())
    assert lineage["stages"] == ["offline", "distill"]
    assert lineage["preceding"] == json.loads((home / "aligned" / "adapter" / "lineage.json").read_text())["files"]
    # what follows it
    with pytest.raises(
        ConfigError, match="stage=distill does not follow stage=distill, and adapter=.* went through offline -> distill"
    ):
        check(config(home, "stage=distill", f"adapter={home}/one/adapter"), home / "again")
    next_one = ["stage=distill_dpo", f"adapter={home}/one/adapter", "max_steps=1"]
    train(config(home, *next_one), home / "aware")
    assert abs(float(metrics(home / "aware")[0]["train/margin"])) == 0  # the reference is the student it starts from
    assert json.loads((home / "aware" / "adapter" / "lineage.json").read_text())["stages"] == [
        "offline",
        "distill",
        "distill_dpo",
    ]


@pytest.mark.parametrize(
    "more, said",
    [
        (["stage=distill", "guidance=none"], "NoGuidance leaves nothing to distill"),
        (["stage=distill", "guidance.blocks=[2]"], r"guidance.blocks=\[2\]: there is no block 2; the model has 2"),
        (["stage=distill", "distill.omega=[2,1]"], r"distill.omega=\[2, 1\]: give a range"),
        (["stage=distill", "policy.lora=null"], "policy.lora=null"),
        (["stage=distill", "module.blocks=[0,9]"], r"module.blocks=\[0, 9\]: there is no block 9; the model has 2"),
        (["policy.lora.targets=[to_q,nope]"], "policy.lora.targets: the model has no layer nope; .* to_out.0, to_q"),
        (["stage=distill_dpo"], "stage=distill_dpo starts from an adapter of stage=distill, and adapter is not set"),
        (
            ["stage=distill_dpo", "adapter={home}/aligned/adapter"],
            "went through stage=distill, and adapter=.* went through offline: train stage=distill adapter=",
        ),
    ],
)
def test_mistakes_are_found_without_a_model(home, more, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        check(config(home, *(part.replace("{home}", str(home)) for part in more)), tmp_path)
