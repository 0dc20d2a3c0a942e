"""Training curves of run folders side by side (the paper's Fig. 4), and what counts as a loss spike."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from hydra.utils import instantiate
from matplotlib.figure import Figure

from apo.config.recorded import curve, settings
from apo.errors import UserError
from apo.places import ROOT

PANELS = {  # title -> metric keys of metrics.csv, the second one dashed
    "loss": ["train/loss"],
    "loss, high-noise rows (t ≥ 0.8 T)": ["train/loss_high"],
    "loss, low-noise rows (t < 0.8 T)": ["train/loss_low"],
    "gain over the reference: chosen (solid), rejected (dashed)": ["train/chosen_gain", "train/rejected_gain"],
    "implicit accuracy": ["train/implicit_accuracy"],
    "gradient norm before clipping": ["train/grad_norm"],
}
AXES = {"steps": "optimizer steps", "rows": "window rows (batches of pairs through the policy)"}


@dataclass
class Run:
    """A run folder's curves."""

    name: str
    metrics: pd.DataFrame  # one row per optimizer step, indexed by step; columns are metric keys
    rows_per_step: int  # K: window rows, each a backward pass, per optimizer step

    def x(self, axis: str) -> np.ndarray:
        """Where each optimizer step ends on the axis 'steps', or 'rows' = K x steps: equal compute at equal x."""
        return (self.metrics.index.to_numpy() + 1) * {"steps": 1, "rows": self.rows_per_step}[axis]


def load(folder: str | Path) -> Run:
    """The run of a folder; FileNotFoundError or UserError if it has no steps yet, or damaged ones."""
    folder = Path(folder)
    if not (folder / "metrics.csv").is_file():
        raise FileNotFoundError(f"{folder}/metrics.csv is not there: give a run folder, outputs/<run>/<stage>")
    metrics = curve(folder / "metrics.csv").set_index("step")
    if metrics.empty:
        raise UserError(f"{folder}/metrics.csv has no steps yet: the run's command, again, takes them")
    return Run("/".join(folder.parts[-2:]), metrics, rows_per_step(folder))


def rows_per_step(folder: Path) -> int:
    """K of a run, from the sampler that its config describes."""
    return len(instantiate(settings(folder).sampler).sample(0, 1))


def find(patterns: Sequence[str], root: Path = ROOT) -> list[Path]:
    """Run folders that match glob patterns (absolute, or relative to the repository), in the patterns' order.

    Where none matches, says so and takes the runs that are there; FileNotFoundError if there are none.
    """
    matches = [Path(match) for pattern in patterns for match in sorted(glob(str(root / pattern)))]
    if found := [folder for folder in dict.fromkeys(matches) if (folder / "metrics.csv").is_file()]:
        return found
    there = sorted(path.parent for path in root.glob("outputs/*/*/metrics.csv"))
    if not there:
        raise FileNotFoundError(f"no run matches {list(patterns)} and outputs/ has none: `python train.py` makes one")
    print(f"no run matches {list(patterns)}; showing what is there:", *(f.relative_to(root) for f in there[:3]))
    return there[:3]


def smooth(values: pd.Series, decay: float = 0.9) -> pd.Series:
    """Exponential moving average without the bias towards its start; over empty values the old ones fade and none
    comes."""
    return values.ewm(alpha=1 - decay).mean()


@dataclass
class Spikes:
    count: int
    per_100: float  # of the values that are there
    local_sd: float  # standard deviation around the local median


def count_spikes(values: pd.Series, window: int = 25, threshold: float = 5.0) -> Spikes:
    """A value is a spike if |value − m| > threshold · MAD; empty values are left out.

    m is the median of the `window` values around it, MAD the median of |value − m| over as many, each with its own m.
    5 MADs are 3.4 standard deviations: normal noise has 0.6 spikes per 100 values (0.07 were the MAD exact).
    """
    values = values.dropna()
    residual = values - _local_median(values, window)
    spikes = residual.abs() > threshold * _local_median(residual.abs(), window)
    return Spikes(int(spikes.sum()), 100 * float(spikes.mean()), float(residual.std()))


def _local_median(values: pd.Series, window: int) -> pd.Series:
    return values.rolling(window, center=True, min_periods=1).median()


def per_rows(run: Run, rows: int) -> Run:
    """The run's metrics averaged over blocks of `rows` window rows: a step of a window is such a mean already, so that
    runs of 1 and of 5 rows a step are only comparable in their noise after this."""
    block = rows // run.rows_per_step
    if block * run.rows_per_step != rows:
        raise ValueError(f"{run.name} takes {run.rows_per_step} rows a step: {rows} is no multiple of it")
    metrics = run.metrics.groupby(run.metrics.index // block).mean()
    return Run(run.name, metrics, rows)


def spike_table(runs: Sequence[Run], key: str = "train/loss") -> pd.DataFrame:
    """Spikes of every run twice: of the loss as logged, per optimizer step, and over blocks of equally many rows."""
    block = int(np.lcm.reduce([run.rows_per_step for run in runs]))
    rows = []
    for run in runs:
        logged, equal = count_spikes(run.metrics[key]), count_spikes(per_rows(run, block).metrics[key])
        rows.append(
            {
                "run": run.name,
                "steps": len(run.metrics),
                "rows a step": run.rows_per_step,
                "spikes": logged.count,
                "per 100 steps": logged.per_100,
                "local sd": logged.local_sd,
                f"spikes, {block}-row means": equal.count,
                f"per 100 {block}-row means": equal.per_100,
                f"local sd, {block}-row means": equal.local_sd,
            }
        )
    return pd.DataFrame(rows).set_index("run")


def compare(runs: Sequence[Run], axis: str = "steps", decay: float = 0.9) -> Figure:
    """Every panel with all runs: values thin, smoothed thick. axis: 'steps' or 'rows' (see `Run.x`).

    decay: of the moving average over a step; over 'rows', of the longest window, so that all runs are smoothed alike.
    """
    longest = max(run.rows_per_step for run in runs)
    figure, grid = plt.subplots(2, 3, figsize=(15, 7), layout="constrained")
    for ax, (title, keys) in zip(grid.flat, PANELS.items()):
        for i, run in enumerate(runs):
            for key, style in zip(keys, ("-", "--")):
                if key not in run.metrics:  # a window of one regime has no loss of the other
                    continue
                values = run.metrics[key].set_axis(run.x(axis))
                ax.plot(values.dropna(), style, color=f"C{i}", alpha=0.25, linewidth=0.7)
                kept = decay ** (run.rows_per_step / longest) if axis == "rows" else decay
                ax.plot(smooth(values, kept), style, color=f"C{i}", label=run.name if style == "-" else None)
        ax.set(title=title, xlabel=AXES[axis])
        ax.grid(alpha=0.3)
    grid.flat[0].legend()
    return figure
