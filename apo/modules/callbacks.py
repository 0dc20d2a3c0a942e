"""What happens beside the optimizer steps: whole checkpoints, a progress bar, sample videos."""

import os
import time
from collections import defaultdict
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import Dataset

from apo.data.pairs import PairDataset
from apo.data.rankings import RankingDataset
from apo.distributed import gather_to_rank_0, is_leader, rank, replica, replicas, world_size
from apo.evaluators.ranking import RankingMetrics
from apo.interfaces import Condition, Guidance
from apo.io.files import naming, partial_name, stray_if_killed, sync
from apo.io.pictures import contact_sheet
from apo.io.video import write_video
from apo.modules.checkpoints import LAST, PREVIOUS
from apo.modules.sharded import ShardedStrategy
from apo.policies.wan import WanPolicy
from apo.random import generator
from apo.solvers.ode import SAMPLES, generate, initial_noise
from apo.sources.online import RankerFailed
from apo.terminal import progress

HELD_OUT = 64  # pairs, each time


class WholeCheckpoint(Callback):
    """checkpoints/last.ckpt every N steps, and the one before as previous.ckpt: a kill at any moment leaves a whole
    one.

    settings: of the run, which the checkpoint holds. begins_from: the one that training continues from.
    """

    def __init__(self, folder: str, every_n_steps: int, settings: dict | None = None, begins_from: Path | None = None):
        self.last, self.every_n_steps, self.settings = Path(folder) / "checkpoints" / LAST, every_n_steps, settings
        self.is_whole = begins_from == self.last  # the last one: a damaged one must not replace the previous

    def on_train_batch_end(self, trainer: L.Trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def on_exception(self, trainer: L.Trainer, module, exception: BaseException) -> None:
        # not on an interrupt, which may come in the middle of an optimizer step, nor on a gradient that would only come
        # again
        if isinstance(exception, RankerFailed) and trainer.global_step > 0:
            module.zero_grad()
            self.save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, module, checkpoint: dict) -> None:
        checkpoint["settings"] = self.settings

    def save(self, trainer: L.Trainer) -> None:
        partial = partial_name(self.last)
        with naming(self.last, partial), stray_if_killed(partial):
            self.last.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                if self.is_whole:
                    os.replace(self.last, self.last.with_name(PREVIOUS))
                os.replace(partial, self.last)
                sync(self.last.parent)
        self.is_whole = True
        if isinstance(trainer.strategy, ShardedStrategy):
            trainer.strategy.forget_older()
        trainer.strategy.barrier()


class StepProgress(Callback):
    """How far training is, by optimizer steps: a bar on a terminal, lines elsewhere. pairs: of a step, all ranks
    together.
    """

    def __init__(self, pairs: int):
        self.pairs, self.bar = pairs, None

    def on_train_start(self, trainer: L.Trainer, module) -> None:
        self.begins, self.began = trainer.global_step, time.monotonic()
        if trainer.is_global_zero and 0 < self.begins < trainer.max_steps:
            print(f"continuing at step {self.begins} of {trainer.max_steps}")
        self.bar = progress(
            total=trainer.max_steps, desc="steps", initial=self.begins, disable=not trainer.is_global_zero
        )

    def on_train_batch_end(self, trainer: L.Trainer, module, outputs, batch, batch_idx) -> None:
        if new := trainer.global_step - self.bar.n:
            rate = self.pairs * (trainer.global_step - self.begins) / (time.monotonic() - self.began)
            self.bar.set_postfix({"loss": f"{module.last_loss.item():.3f}", "pairs/s": f"{rate:.2f}"}, refresh=False)
            self.bar.update(new)

    def on_train_end(self, trainer: L.Trainer, module) -> None:
        self.bar.close()

    def on_exception(self, trainer: L.Trainer, module, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()


class SampleVideos(Callback):
    """samples/step_000100/: the same conditions and seeds every N steps, as mp4 and one contact sheet, also to W&B.

    The replicas share them. All generate equally often, since sharded weights need all ranks; rank 0 writes.
    """

    def __init__(self, folder: str, data: Dataset, every_n_steps: int, guidance: Guidance, seed: int):
        self.folder, self.every_n_steps = Path(folder) / "samples", every_n_steps
        self.guidance, self.seed = guidance, seed
        batch = data.collate([data[i] for i in range(min(SAMPLES, len(data)))])
        self.cond = batch if isinstance(batch, Condition) else batch.cond

    def on_train_batch_end(self, trainer: L.Trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_n_steps and trainer.global_step != trainer.max_steps:
            return
        cond = self.cond.to(module.device)
        mine, count = {}, len(cond.prompt)
        with module.policy.evaluating():
            for turn in range(0, count, replicas()):
                place = turn + replica()
                video = self.video(module.policy, cond, place % count)
                if place < count and is_leader():  # the others' forwards only let sharded weights be gathered
                    mine[place] = video
        if (every := gather_to_rank_0(mine)) is not None:
            videos = {place: video for share in every for place, video in share.items()}
            self.write(trainer, module, torch.cat([videos[place] for place in range(count)]), cond.prompt)

    def video(self, policy: WanPolicy, cond: Condition, place: int) -> torch.Tensor:
        """(1, frames, 3, height, width) uint8 on the CPU; alone, since several take more memory than
        training leaves.
        """
        latents = generate(policy, self.guidance, cond[[place]], initial_noise(policy, [self.seed + place]))
        return policy.decode(latents).cpu()

    def write(self, trainer: L.Trainer, module, videos: torch.Tensor, prompts: list[str]) -> None:
        folder = self.folder / f"step_{trainer.global_step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{i:02d}.mp4" for i in range(len(videos))]
        for path, video in zip(paths, videos):
            write_video(path, video, module.policy.spec.fps)
        contact_sheet(folder / "contact_sheet.png", videos, prompts)
        for logger in trainer.loggers:
            logger.log_video("samples", [str(p) for p in paths], step=trainer.global_step - 1, caption=prompts)


class HeldOutPairs(Callback):
    """val/ metrics on pairs that are not trained on, at five fixed noise levels and fixed noise, every N steps.

    At most HELD_OUT pairs, which the replicas share. All compute equally often, since sharded weights need all ranks.
    """

    def __init__(self, pairs: PairDataset, every_n_steps: int, batch_size: int):
        self.pairs, self.every_n_steps, self.batch_size = pairs, every_n_steps, batch_size
        self.count = min(len(pairs), HELD_OUT)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_n_steps and trainer.global_step != trainer.max_steps:
            return
        values, starts = defaultdict(list), range(0, self.count, self.batch_size)
        for turn in range(0, len(starts), replicas()):
            start = starts[min(turn + replica(), len(starts) - 1)]
            counts = turn + replica() < len(starts)  # the others' forwards only let sharded weights be gathered
            pair = self.pairs.collate([self.pairs[i] for i in range(start, min(start + self.batch_size, self.count))])
            pair = module.transfer_batch_to_device(pair, module.device, 0)
            noise = torch.stack(
                [torch.randn(x.shape, generator=generator(start, i)) for i, x in enumerate(pair.chosen)]
            )
            for t in (980.0, 940.0, 880.0, 700.0, 400.0):
                found = module.loss.held_out(module.policy, pair, torch.full((len(noise),), t), noise.to(pair.chosen))
                for key, value in found.items():
                    values[f"val/{key}"].append(value * len(noise) * counts)
        module.record({key: torch.stack(value).sum() * replicas() / (5 * self.count) for key, value in values.items()})


class HeldOutRankings(Callback):
    """val/ metrics of order-averaged verdicts on rankings that are not trained on, every N steps; each rank judges a
    share.
    """

    def __init__(self, data: RankingDataset, every_n_steps: int, batch_size: int):
        self.data, self.every_n_steps, self.batch_size = data, every_n_steps, batch_size

    def on_train_batch_end(self, trainer: L.Trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_n_steps and trainer.global_step != trainer.max_steps:
            return
        metrics = RankingMetrics(self.data.domains).to(module.device)
        places = range(rank(), len(self.data), world_size())
        for start in range(0, len(places), self.batch_size):
            ranking = self.data.collate([self.data[i] for i in places[start : start + self.batch_size]])
            ranking = module.transfer_batch_to_device(ranking, module.device, 0)
            metrics.update(module.loss.judged(module.policy, ranking), ranking.label, ranking.domain)
        module.record({f"val/{key}": torch.tensor(value) for key, value in metrics.values().items()})
