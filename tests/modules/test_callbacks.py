"""What happens beside the optimizer steps, on a policy with random weights."""

import os
import re
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from apo import terminal
from apo.guidance.cfg import CFG
from apo.interfaces import Condition
from apo.modules import callbacks
from apo.modules.callbacks import HELD_OUT, HeldOutPairs, SampleVideos, StepProgress, WholeCheckpoint
from apo.modules.optim import NonFiniteGradient
from apo.modules.preemption import StopWhenTold
from apo.solvers.ode import generate, initial_noise
from apo.sources.online import RankerFailed
from tests.policies.test_wan import STYLES, inputs, make


@STYLES
def test_samples_are_made_one_at_a_time_and_are_those_of_a_batch(request, style, tmp_path, monkeypatch):
    policy = make(request, style).train()
    cond, guidance = inputs(policy, style, [950.0, 940.0])[2], CFG(2.0, 2.0, 0.9)
    policy.eval()
    together = policy.decode(generate(policy, guidance, cond, initial_noise(policy, [7, 8])))
    policy.train()
    asked, written = [], []
    monkeypatch.setattr(
        SampleVideos, "write", lambda self, trainer, module, videos, prompts: written.append((videos, prompts))
    )
    policy.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    decode = policy.decode
    monkeypatch.setattr(policy, "decode", lambda latents: asked.append(len(latents)) or decode(latents))
    samples = SampleVideos(tmp_path, Whole(cond), 5, guidance, seed=7)
    trainer = SimpleNamespace(global_step=5, max_steps=9, is_global_zero=True)
    samples.on_train_batch_end(trainer, SimpleNamespace(policy=policy, device="cpu"), None, None, 0)
    ((videos, prompts),) = written
    assert prompts == cond.prompt and policy.training
    assert max(asked) == 2 and 1 in asked  # a video and its unconditional twin; decoded alone
    assert videos.shape == together.shape and (videos.int() - together.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "replicas, made", [(1, [[0, 1, 2, 3]]), (3, [[0, 3], [1, 0], [2, 1]]), (5, [[0], [1], [2], [3], [0]])]
)
def test_replicas_share_the_samples_and_generate_equally_often(tmp_path, monkeypatch, replicas, made):
    shares, written = [], []
    monkeypatch.setattr(callbacks, "replicas", lambda: replicas)
    monkeypatch.setattr(
        SampleVideos, "write", lambda self, trainer, module, videos, prompts: written.append(videos.flatten().tolist())
    )
    cond = Condition(list("abcd"), torch.zeros(4, 1), torch.zeros(4, 1))
    samples = SampleVideos(tmp_path, Whole(cond), 1, None, seed=0)
    policy = SimpleNamespace(evaluating=nullcontext)
    for mine in range(replicas):
        asked = []
        monkeypatch.setattr(callbacks, "replica", lambda mine=mine: mine)
        monkeypatch.setattr(
            samples, "video", lambda policy, cond, place, asked=asked: asked.append(place) or torch.full((1, 1), place)
        )
        monkeypatch.setattr(
            callbacks,
            "gather_to_rank_0",
            lambda share: shares.append(share) or (shares if len(shares) == replicas else None),
        )
        samples.on_train_batch_end(
            SimpleNamespace(global_step=1, max_steps=1), SimpleNamespace(policy=policy, device="cpu"), None, None, 0
        )
        assert asked == made[mine]
    assert written == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "exception, saves", [(RankerFailed(), True), (NonFiniteGradient(), False), (KeyboardInterrupt(), False)]
)
def test_only_a_failed_ranker_leaves_a_checkpoint_between_the_usual_ones(exception, saves, tmp_path):
    """With two windows a pair, an odd step could not resume; a gradient may fail there, a ranker only where a pair
    begins.
    """
    saved = []
    trainer = SimpleNamespace(
        global_step=3,
        is_global_zero=False,
        save_checkpoint=saved.append,
        strategy=SimpleNamespace(barrier=lambda: None),
    )
    WholeCheckpoint(tmp_path, 2).on_exception(trainer, SimpleNamespace(zero_grad=lambda: None), exception)
    assert bool(saved) == saves


def test_the_lines_count_optimizer_steps_from_where_training_begins(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "INTERVAL", 0)
    bar, module = StepProgress(pairs=4), SimpleNamespace(last_loss=torch.tensor(0.5))
    at = SimpleNamespace(global_step=4, max_steps=8, is_global_zero=True)
    bar.on_train_start(at, module)
    at.global_step = 6
    bar.on_train_batch_end(at, module, None, None, 2)  # the third batch, each of two steps
    bar.on_train_batch_end(at, module, None, None, 3)  # of which this one has not stepped yet
    begins, *lines = capsys.readouterr().out.splitlines()
    assert begins == "continuing at step 4 of 8" and len(lines) == 1
    assert re.fullmatch(r"steps: 6 of 8, loss 0.500, pairs/s [\d.]+, 00:00 gone, 00:00 left", lines[0])


class Terminated(L.LightningModule):
    """Gets a SIGTERM in its second step."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, place):
        if place == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("submitit", [False, True])
def test_sigterm_stops_a_run_but_under_submitit_which_requeues_at_a_signal_of_its_own(submitit, monkeypatch, tmp_path):
    if submitit:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    saved, before = [], signal.getsignal(signal.SIGTERM)
    checkpoint = WholeCheckpoint(tmp_path, 100)
    monkeypatch.setattr(checkpoint, "save", lambda trainer: saved.append(trainer.global_step))
    stop = StopWhenTold(checkpoint)
    trainer = L.Trainer(
        max_steps=5,
        accelerator="cpu",
        callbacks=[stop],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Terminated(), torch.utils.data.DataLoader(range(5)))
    assert (trainer.global_step, saved, stop.stopped) == ((5, [], False) if submitit else (2, [2], True))
    assert signal.getsignal(signal.SIGTERM) == before


class Measured:
    """A module and its loss, which notes what pairs it is asked for; it is their sum plus a share of
    the noise level.
    """

    device, policy = "cpu", None

    def __init__(self):
        self.asked, self.recorded, self.loss = [], None, self

    def transfer_batch_to_device(self, pair, *_):
        return pair

    def held_out(self, policy, pair, t, noise):
        self.asked.append(pair.chosen[:, 0].tolist())
        return {"loss": pair.chosen.mean() + t.mean() / 1000}

    def record(self, values):
        self.recorded = values


@pytest.mark.parametrize("pairs, size", [(7, 2), (3, 1), (HELD_OUT + 9, 8)])
def test_replicas_share_held_out_pairs_and_compute_equally_often(pairs, size, monkeypatch):
    """Of two replicas; what ranks record is averaged."""
    data = type(
        "Data",
        (),
        {
            "__len__": lambda self: pairs,
            "__getitem__": lambda self, i: i,
            "collate": lambda self, places: SimpleNamespace(chosen=torch.tensor(places).float()[:, None]),
        },
    )()
    trainer, found = SimpleNamespace(global_step=5, max_steps=9), {}
    for replicas, replica in ((1, 0), (2, 0), (2, 1)):
        monkeypatch.setattr("apo.modules.callbacks.replicas", lambda count=replicas: count)
        monkeypatch.setattr("apo.modules.callbacks.replica", lambda place=replica: place)
        found[replicas, replica] = module = Measured()
        HeldOutPairs(data, 5, size).on_train_batch_end(trainer, module, None, None, 0)
    one, *two = found.values()
    assert one.recorded["val/loss"] == pytest.approx(sum(range(count := min(pairs, HELD_OUT))) / count + 0.78)
    assert sum(float(module.recorded["val/loss"]) for module in two) / 2 == pytest.approx(
        float(one.recorded["val/loss"])
    )
    assert len(two[0].asked) == len(two[1].asked) < len(one.asked)
    assert {place for places in two[0].asked + two[1].asked for place in places} == set(range(count))


class Whole:
    """A data set of the places of a condition."""

    def __init__(self, cond):
        self.cond = cond

    def __len__(self):
        return len(self.cond.prompt)

    def __getitem__(self, place):
        return place

    def collate(self, _):
        return self.cond
