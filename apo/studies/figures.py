"""The figures of studies, of a table's rows: `figure: {draw: ...}` names one, whose other keys it is given."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from hydra.utils import get_method
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apo.intervals import Interval, mean_interval, wilson
from apo.studies.columns import Row

DOTS = dict(linestyle="", marker=".", color="k", markersize=5)  # one for each seed
DIAMOND = dict(fmt="D", color="C3", markerfacecolor="white", markersize=5)  # the paper's


def drawing(given: dict) -> Callable[[Sequence[Row]], Figure]:
    """What `figure` of a study describes."""
    options = {key: value for key, value in given.items() if key not in ("draw", "table")}
    name = given["draw"]
    return partial(get_method(name if "." in name else f"apo.studies.figures.{name}"), **options)


def save(figure: Figure, folder: Path) -> None:
    """figure.png and figure.svg, whose text stays text."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "apo"}):
        figure.savefig(folder / "figure.png", dpi=120)
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    plt.close(figure)


def bars(rows: Sequence[Row], of: str, ylabel: str) -> Figure:
    """Rates with the intervals of all seeds' videos, each seed as a dot, the paper's mean and standard deviation as a
    diamond."""
    figure, ax = plt.subplots(figsize=(1.1 * len(rows) + 2, 4.2), layout="constrained")
    for x, row in enumerate(rows):
        paper = row.own.arm.paper.get(of)
        rate = pooled(row, of)
        ax.bar(x, 100 * rate.value, yerr=ends(rate), capsize=4, color="C7" if paper is None else "C0", alpha=0.75)
        dots(ax, x, row, of)
        if paper is not None:
            mean, sd = paper if isinstance(paper, list) else (paper, 0)
            ax.errorbar(x + 0.25, mean, yerr=sd, **DIAMOND)
    ax.plot([], [], **DOTS, label="one seed")
    if any(of in row.own.arm.paper for row in rows):
        ax.errorbar([], [], yerr=[], **DIAMOND, label="the paper (other model, people)")
    ax.set_xticks(range(len(rows)), [row.title for row in rows], rotation=30, ha="right")
    ax.set(ylabel=ylabel, ylim=(0, None), title="held-out videos; bars: all seeds, 95 % interval")
    ax.legend()
    return figure


def over(rows: Sequence[Row], of: str, xlabel: str, ylabel: str, line: str) -> Figure:
    """Rates over the arms' `x`, with the intervals of all seeds' videos and each seed; arm `line` as a horizontal
    one."""
    figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for row in rows:
        if row.own.arm.x is not None:
            rate = pooled(row, of)
            ax.errorbar(row.own.arm.x, 100 * rate.value, yerr=ends(rate), fmt="o", color="C0", capsize=4)
            dots(ax, row.own.arm.x, row, of)
        if row.own.arm.name == line:
            ax.axhline(100 * pooled(row, of).value, color="C7", linestyle="--", label=row.title)
            ax.legend()
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None), title="bars: all seeds, 95 % interval; dots: one seed")
    return figure


def preferences(rows: Sequence[Row], of: str) -> Figure:
    """Wins, ties and losses as parts of a bar, in percent."""
    compared = [row for row in rows if row.beside is not None]
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(compared) + 1.2), layout="constrained")
    for y, row in enumerate(compared):
        found = row.beside.outcomes(of)
        begin, whole = 0.0, found.win + found.tie + found.loss
        for count, colour in ((found.win, "C2"), (found.tie, "0.85"), (found.loss, "C3")):
            ax.barh(y, 100 * count / whole, left=begin, color=colour)
            if count:
                ax.text(
                    begin + 50 * count / whole, y, f"{100 * count / whole:.1f}", ha="center", va="center", fontsize=8
                )
            begin += 100 * count / whole
    ax.set_yticks(range(len(compared)), [row.title for row in compared])
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="% of videos: win (green), tie, loss (red)")
    return figure


def dimensions(rows: Sequence[Row], of: Sequence[str]) -> Figure:
    """The rows' means of several measurements in [0, 1] side by side, with 95 % intervals over all videos."""
    figure, ax = plt.subplots(figsize=(1.5 * len(of) + 1, 3.6), layout="constrained")
    width = 0.8 / max(len(rows), 1)
    for index, row in enumerate(rows):
        found = [mean_interval(row.own.videos[name].tolist(), 0, 1) for name in of]
        errors = np.hstack([ends(each) for each in found])
        x = np.arange(len(of)) + (index - (len(rows) - 1) / 2) * width
        ax.bar(x, [100 * each.value for each in found], width, yerr=errors, capsize=3, label=row.title)
    ax.set_xticks(range(len(of)), [name.replace("_", " ") for name in of], rotation=20, ha="right")
    ax.set(ylabel="%", ylim=(0, 100))
    ax.legend()
    return figure


def pooled(row: Row, of: str) -> Interval:
    return wilson(int(row.own.videos[of].sum()), len(row.own.videos))


def ends(interval: Interval) -> np.ndarray:
    """(2, 1) lengths of an error bar, in percent."""
    return 100 * np.array([[interval.value - interval.low], [interval.high - interval.value]])


def dots(ax: Axes, x: float, row: Row, of: str) -> None:
    if row.own.seeds:
        ax.plot([x] * len(row.own.seeds), [100 * value for value in row.own.each(of)], **DOTS)
