"""Run folders as training leaves them, with made-up numbers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

SAMPLERS = {  # rows per optimizer step -> a sampler's config
    1: {"_target_": "apo.timesteps.uniform.UniformSampler", "rows": 1, "boundary": 0.9, "seed": 0},
    5: {"_target_": "apo.timesteps.uniform.UniformSampler", "rows": 5, "boundary": 0.9, "seed": 0},
}

OFFLINE = {
    "stage": {"name": "offline", "data": "pairs", "needs_reference": True},
    "adapter": None,
    "batch_size": 8,
    "guidance": {"_target_": "apo.guidance.none.NoGuidance"},
    "model": {"num_inference_steps": 10},
}


def curves(steps: int, rows: int, seed: int = 0) -> pd.DataFrame:
    """A falling, noisy loss and its company; runs of one row a step see each regime in some steps only."""
    draw, step = np.random.default_rng(seed), np.arange(steps)
    noise = draw.normal(size=(7, steps)) / rows**0.5
    loss = 0.69 - 0.2 * step / steps + 0.05 * noise[0]
    low = step % 5 == 4
    return pd.DataFrame(
        {
            "step": step,
            "train/loss": loss,
            "train/margin": 1e-3 * noise[1],
            "train/implicit_accuracy": 0.6 + 0.1 * noise[2],
            "train/chosen_gain": 1e-3 * noise[3],
            "train/rejected_gain": 1e-3 * noise[4],
            "train/t_mean": 850 + 10 * noise[5],
            "train/loss_high": np.where(low & (rows == 1), np.nan, loss),
            "train/loss_low": np.where(low | (rows > 1), loss, np.nan),
            "train/grad_norm": 1 + 0.1 * noise[6],
            "time/optimize": np.full(steps, 0.5 * rows),
        }
    )


def training(folder: Path, steps: int = 60, rows: int = 5, **config) -> Path:
    """A run folder with metrics.csv and config.yaml (JSON is YAML)."""
    folder.mkdir(parents=True)
    curves(steps, rows).to_csv(folder / "metrics.csv", index=False)
    (folder / "config.yaml").write_text(json.dumps(OFFLINE | {"sampler": SAMPLERS[rows]} | config))
    return folder


def rows(folder: Path, videos: list[dict]) -> Path:
    """rows.json in a folder of results: clean videos that follow their prompts, but for what `videos` says of each."""
    usual = {
        "prompt": "the",
        "distorted": False,
        "cause": "",
        "followed": True,
        "speed": 1.0,
        "subject_consistency": 1.0,
        "background_consistency": 1.0,
        "motion_smoothness": 0.5,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps({"key": "0", "rows": [usual | video for video in videos]}))
    return folder


def share(distorted: int, n: int = 100) -> list[dict]:
    """The first videos distorted, every second one following its prompt."""
    flaw = {"distorted": True, "cause": "cut"}
    return [{"followed": i % 2 == 0, "speed": 1.5} | (flaw if i < distorted else {}) for i in range(n)]


def flawed(*causes: str) -> list[dict]:
    """Videos of these causes, '' for a clean one."""
    return [{"distorted": bool(cause), "cause": cause} for cause in causes]
