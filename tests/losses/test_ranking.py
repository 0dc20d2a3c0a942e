"""stage=ranker through the real run: it learns, resumes exactly, and spreads over processes."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import Qwen3VLForConditionalGeneration

from apo.checks import ConfigError, check
from apo.config.compose import compose
from apo.data.rankings import Ranking
from apo.interfaces import Row
from apo.losses.ranking import RankingLoss
from apo.modules.align import AlignModule
from apo.rankers.answer import swapped
from apo.rankers.vlm import WEIGHTS, RankingVLM, TrainableVLM
from apo.run import train
from tests.aligning import backward
from tests.dying import dies_and_resumes
from tests.rankers.tiny import LORA, tiny_base, world_pairs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("ranker")
    tiny_base(home / "base")
    return home


def overrides(home: Path, *more: str) -> list[str]:
    return [
        "stage=ranker",
        f"vlm.path={home}/base",
        "vlm.frames=4",
        "vlm.lora.rank=4",
        f"data.cache_dir={home}/cache",
        "data.count=8",
        "data.validation_count=4",
        "data.generated_share=0",
        "data.batch_size=8",
        "batch_size=4",
        "max_steps=6",
        "logger=csv",
        "checkpoint_every_n_steps=2",
        "validate_every_n_steps=3",
        "trainer.threads=1",
        *more,
    ]


def config(home: Path, *more: str) -> DictConfig:
    return compose("train", overrides(home, *more))


def metrics(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def test_it_overfits_a_handful_of_pairs_with_all_weights(home):
    train(
        config(home, "vlm.lora=null", "batch_size=8", "max_steps=60", "optimizer.lr=3e-3", "validate_every_n_steps=60"),
        home / "whole",
    )
    rows = metrics(home / "whole")
    assert float(rows[0]["train/accuracy"]) < 0.6 and float(rows[-1]["train/accuracy"]) == 1
    assert float(rows[-1]["train/loss"]) < 0.1 * float(rows[0]["train/loss"])
    Qwen3VLForConditionalGeneration.from_pretrained(home / "whole" / "adapter")  # the result is a model of its own


def test_a_run_that_dies_resumes_exactly(home):
    train(config(home), home / "one")
    dies_and_resumes(AlignModule, lambda folder: train(config(home), folder), home / "other")
    assert metrics(home / "other") == metrics(home / "one") and len(metrics(home / "one")) == 6
    assert (home / "other/adapter" / WEIGHTS).read_bytes() == (home / "one/adapter" / WEIGHTS).read_bytes()
    assert metrics(home / "one")[2]["val/accuracy"] and not metrics(home / "one")[1]["val/accuracy"]


def test_the_adapter_of_a_run_starts_the_next_one(home):
    train(config(home), home / "one")
    train(config(home, f"adapter={home}/one/adapter", "max_steps=1", "optimizer.lr=0"), home / "next")
    for name, weight in load_file(home / "next" / "adapter" / WEIGHTS).items():
        assert torch.equal(weight, load_file(home / "one" / "adapter" / WEIGHTS)[name])


def test_every_pair_is_trained_in_both_orders(home):
    """A pair and its exchange give the same gradient, with checkpointing or without."""
    first, second, cond = world_pairs(2)
    label, domains = torch.tensor([1, 4]), ["digit", "scene"]
    gradients = []
    pair = Ranking(first, second, label, cond.prompt, domains)
    exchange = Ranking(second, first, swapped(label), cond.prompt, domains)
    for batch, checkpointing in ((pair, False), (exchange, False), (pair, True)):
        vlm = TrainableVLM(str(home / "base"), "float32", 4, 8.0, LORA, None, 0, checkpointing)
        halves = list(backward(RankingLoss(), vlm, batch, [Row(0)]))
        assert len(halves) == 2 and halves[0].keys() == {"train/loss", "train/accuracy"}
        gradients.append({name: weight.grad for name, weight in vlm.named_parameters() if weight.requires_grad})
    for name, gradient in gradients[0].items():
        for others in gradients[1:]:
            assert_close(others[name], gradient, rtol=1e-4, atol=1e-6)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0].values())


def test_two_processes_equal_one_with_twice_the_batch(home):
    same = [
        "max_steps=3",
        "max_grad_norm=1e9",
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "optimizer.lr=1e-2",
    ]
    train(config(home, *same), home / "single")
    settings = overrides(home, *same, "batch_size=2", "trainer=ddp", "run=two", f"hydra.run.dir={home}/double")
    result = subprocess.run(
        [sys.executable, "train.py", *settings], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for one, two in zip(metrics(home / "single"), metrics(home / "double"), strict=True):
        assert_close(float(two["train/loss"]), float(one["train/loss"]), rtol=1e-4, atol=1e-6)
        assert_close(float(two["train/grad_norm"]), float(one["train/grad_norm"]), rtol=1e-3, atol=1e-6)
        assert {k: v for k, v in two.items() if k.startswith("val/")} == {
            k: v for k, v in one.items() if k.startswith("val/")
        }
    ours, theirs = (load_file(home / run / "adapter" / WEIGHTS) for run in ("double", "single"))
    for name in theirs:
        assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "more, said",
    [
        (["vlm.path=outputs/nowhere"], "vlm.path=outputs/nowhere: no config.json there; give a model folder"),
        (["sample_every_n_steps=10"], "sample_every_n_steps=10: a ranker generates no videos"),
        (["data=world_pairs"], "stage=ranker trains on rankings, and this data= gives pairs: use data=world_rankings"),
        (["model=tiny_wan21"], "data=world_rankings needs videos of the world"),
    ],
)
def test_mistakes_are_found_without_a_model(home, more, said, tmp_path):
    base = (
        [line for line in overrides(home) if not line.startswith("data.")]
        if more[0].startswith("data=")
        else overrides(home)
    )
    with pytest.raises(ConfigError, match=said):
        check(compose("train", [*base, *more]), tmp_path)


def test_a_tokenizer_that_splits_the_labels_is_refused(home, monkeypatch):
    monkeypatch.setattr("apo.rankers.vlm.LABELS", ("1", "22"))
    with pytest.raises(ValueError, match="use a model for which each is one token"):
        RankingVLM(str(home / "base"), "float32", 4, 8.0)
