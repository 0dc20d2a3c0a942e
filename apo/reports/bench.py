"""Optimizer-step time and memory of `train.py`, against the bare passes: `python -m apo.reports.bench --threads 1`.

Runs the real command on synthetic pairs. Between its optimizer steps, in the same process, the bare forward and
backward passes of equal tensors are timed, so that whatever else the machine does falls on both alike.
"""

import argparse
import csv
import gc
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from safetensors import safe_open
from torch import nn

from apo.config.outputs import OUTPUTS
from apo.config.overrides import composed
from apo.data.pairs import PairDataset
from apo.data.stream import Data, Split
from apo.flow import noised
from apo.interfaces import Pair, TimestepSampler
from apo.intervals import bootstrap_median
from apo.places import program
from apo.policies.wan import WanPolicy

BAR = 1.05  # a step may take this many times its bare passes
WARM = 3  # steps of each repeat that are not counted: allocators and caches fill
PROMPT = "the red digit five moves up quickly"
COLUMNS = ("step", "bare", "bare_cpu", "whole", "whole_cpu", "peak_kib", "held")
DATA = "{_target_:apo.reports.bench.BenchPairs,sampler:${sampler},batch_size:${batch_size},path:%s}"


class BenchPairs(Data):
    """What `data` is in a benchmark: random pairs in memory that time what happens between two requests for a batch.

    path: CSV with one line per optimizer step, of COLUMNS: seconds of the bare passes and of the step that followed
    them, by the clock and of this process's own processor time; peak resident memory; parameters held besides the
    adapters.
    """

    gives = "pairs"

    def __init__(self, sampler: TimestepSampler, batch_size: int, path: str):
        self.sampler, self.batch_size, self.path = sampler, batch_size, Path(path)

    def prepare(self, policy: WanPolicy) -> Split:
        return Split(Interleaved(policy, self), PairDataset([], policy.max_sequence_length))


class Interleaved(PairDataset):
    """A batch of pairs, again and again. The first item of each asks for the bare passes to be run and timed."""

    def __init__(self, policy: WanPolicy, settings: BenchPairs):
        super().__init__([], policy.max_sequence_length)
        self.policy, self.settings, self.asked = policy, settings, 0
        self.bare, self.began = now(), now()
        spec, shape = policy.spec, policy.codec.latent_shape
        draw = torch.Generator().manual_seed(0)
        frame = torch.randint(0, 256, (1, 3, spec.height, spec.width), dtype=torch.uint8, generator=draw)
        cond = policy.encode_condition([PROMPT], frame)
        self.item = {"chosen": torch.randn(shape, generator=draw), "rejected": torch.randn(shape, generator=draw)}
        self.item |= {
            "text": cond.text[0],
            "image": cond.image[0],
            "frame": cond.frame[0],
            "prompt": PROMPT,
            "domain": "",
        }
        if cond.image_embeds is not None:
            self.item["image_embeds"] = cond.image_embeds[0]

    def __len__(self) -> int:
        return self.settings.batch_size

    def __getitem__(self, index: int) -> dict:
        step, item = divmod(self.asked, self.settings.batch_size)
        self.asked += 1
        if item == 0:
            if step:
                self.write(step - 1, now() - self.began)
            self.bare = self.passes(step)
            self.began = now()
        return self.item

    def write(self, step: int, whole: np.ndarray) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        new = not self.settings.path.exists()
        with self.settings.path.open("a", newline="") as file:
            lines = [COLUMNS] if new else []
            csv.writer(file).writerows([*lines, (step, *self.bare, *whole, peak, parameters_held(self.policy))])

    def passes(self, step: int) -> np.ndarray:
        """Seconds of the bare passes: reference forward, policy forward and backward, for every window row."""
        device = next(self.policy.experts.parameters()).device
        pair = self.collate([self.item] * self.settings.batch_size)
        rows = [self.tensors(pair, t, device) for t in self.settings.sampler.sample(step, self.settings.batch_size)]
        synchronise(device)
        began = now()
        for x_t, t, cond in rows:
            with torch.no_grad(), self.policy.reference():
                self.policy(x_t, t, cond)
            self.policy(x_t, t, cond).backward(x_t)
        synchronise(device)
        seconds = now() - began
        self.policy.zero_grad()
        return seconds

    def tensors(self, pair: Pair, t: torch.Tensor, device: torch.device) -> tuple:
        """x_t, t and condition of a row: chosen and rejected in one batch, as the module has them."""
        x_0, t = torch.cat([pair.chosen, pair.rejected]), torch.cat([t, t])
        cond = self.collate([self.item] * len(t)).cond.to(device)
        return noised(x_0, torch.randn_like(x_0), t).to(device), t, cond


def now() -> np.ndarray:
    """The clock and this process's processor time, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parameters_held(policy: WanPolicy) -> int:
    """Values of all parameters alive in this process, shared storage once, without the adapters."""
    adapters = {p.data_ptr() for name, p in policy.named_parameters() if "lora_" in name}
    alive = {p.data_ptr(): p.numel() for p in gc.get_objects() if isinstance(p, nn.Parameter)}
    return sum(count for pointer, count in alive.items() if pointer not in adapters)


def parameters_stored(pipeline: Path) -> int:
    """Values in the safetensors files of a pipeline folder."""
    total = 0
    for path in pipeline.glob("*/*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())
    return total


def summarise(repeats: list[pd.DataFrame]) -> dict:
    """Times of repeats (COLUMNS), warm-up excluded. Ratios are of a step to the bare passes just before it."""
    times = pd.concat(repeats)
    ratio, ratio_cpu = times.whole / times.bare, times.whole_cpu / times.bare_cpu
    return {
        "steps_counted": len(times),
        "bare_seconds": asdict(bootstrap_median(times.bare)),
        "step_seconds": asdict(bootstrap_median(times.whole)),
        "ratio": asdict(bootstrap_median(ratio)),
        "ratio_of_each_repeat": [float((repeat.whole / repeat.bare).median()) for repeat in repeats],
        "ratio_of_totals": float(times.whole.sum() / times.bare.sum()),
        "bar": BAR,
        "ratio_of_processor_time": asdict(bootstrap_median(ratio_cpu)),
        "ratio_of_total_processor_time": float(times.whole_cpu.sum() / times.bare_cpu.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="The rest: train.py's overrides.")
    parser.add_argument(
        "--steps", type=int, default=33, help="optimizer steps of a repeat, the first 3 are not counted"
    )
    parser.add_argument("--repeats", type=int, default=3, help="processes, one after another")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments, overrides = parser.parse_known_args()
    folder = OUTPUTS / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    overrides += [f"trainer.threads={arguments.threads}", f"max_steps={arguments.steps + 1}", "sample_every_n_steps=0"]
    cfg = composed("train", overrides)
    model = instantiate(cfg.model)
    model.check()
    pipeline = model.folder()
    repeats = []
    for repeat in range(arguments.repeats):
        times = folder / f"repeat_{repeat}.csv"
        times.unlink(missing_ok=True)
        shutil.rmtree(folder / f"repeat_{repeat}", ignore_errors=True)
        data = ["~data", "+data=" + DATA % times, f"run=bench/repeat_{repeat}"]
        subprocess.run([sys.executable, *program("train"), *overrides, *data], check=True)
        repeats.append(pd.read_csv(times).iloc[WARM:])
    rows = len(instantiate(cfg.sampler).sample(0, 1))
    last, stored = repeats[-1].iloc[-1], parameters_stored(pipeline)
    report = {
        "model": cfg.model.path,
        "pairs": cfg.batch_size,
        "rows": rows,
        "threads": arguments.threads,
        "overrides": overrides,
        **summarise(repeats),
        "peak_rss_mib": round(last.peak_kib / 1024),
        "base_parameters_held": int(last.held),
        "base_parameters_of_the_pipeline": stored,
        "copies_of_the_base_weights": last.held / stored,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    print(table_of(report), f"\nreport: {folder / 'report.json'}")


def table_of(report: dict) -> str:
    def shown(name: str) -> str:
        return "{value:.3f} ({low:.3f}-{high:.3f})".format(**report[name])

    held = report["base_parameters_held"]
    each = ", ".join(f"{ratio:.3f}" for ratio in report["ratio_of_each_repeat"])
    verdict = "met" if report["ratio"]["value"] <= BAR else "MISSED"
    return "\n".join(
        [
            f"\n{report['pairs']} pairs x {report['rows']} rows, {report['threads']} thread(s), {report['model']}",
            "| | median (95 % interval) |",
            "|---|---|",
            f"| bare reference forwards, policy forwards and backwards, s | {shown('bare_seconds')} |",
            f"| optimizer step, from batch to batch, s | {shown('step_seconds')} |",
            f"| step / bare, bar {BAR:.2f} {verdict} | {shown('ratio')} |",
            f"| the same, each repeat | {each} |",
            f"| all steps / all bare passes, checkpoints included | {report['ratio_of_totals']:.3f} |",
            "| step / bare in processor time, which a busy machine does not change | "
            f"{shown('ratio_of_processor_time')} |",
            f"| the same of all steps, checkpoints included | {report['ratio_of_total_processor_time']:.3f} |",
            f"| copies of the base weights ({held:,} parameters) | {report['copies_of_the_base_weights']:.3f} |",
            f"| peak resident memory, MiB | {report['peak_rss_mib']} |",
        ]
    )


if __name__ == "__main__":
    main()
