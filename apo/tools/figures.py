"""Draws the two figures of docs/how_it_works.md with the code that trains: `python -m apo.tools.figures`."""

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from apo.flow import inference_sigmas, noised, to_timestep
from apo.timesteps.apo import APOSampler
from apo.timesteps.uniform import UniformSampler
from apo.tools.inputs import ROOT
from apo.world import flaws, render

STEPS, SHIFTS, SPLIT, ROWS = 40, (3, 4, 5, 6), 0.8, 5  # Wan2.2's solver steps; Section 4.1
OUTLINED = 6  # the optimizer step whose window is shown in full
HIGH, LOW, PLAIN, OWN, STUDENT = "#d1495b", "#2e6f95", "#8d99ae", "#2e6f95", "#e09f3e"
INK, PAPER = "#22223b", "#f5f5f7"


def main() -> None:
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "apo", "text.color": INK, "axes.edgecolor": PLAIN})
    for name, figure in {"method": method(), "stages": stages()}.items():
        path = ROOT / "docs" / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", facecolor="white")
        print(path.relative_to(ROOT))


def method() -> Figure:
    """One training step: where its timesteps come from, and what one row of its window does."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6.4), height_ratios=(1.15, 1.45))
    draw_timesteps(above)
    draw_row(below)
    figure.subplots_adjust(left=0.02, right=0.98, hspace=0.24)
    return figure


def draw_timesteps(axes: Axes) -> None:
    """Timesteps of uniform sampling, of the solver, and of Diffusion-APO's windows."""
    axes.axvspan(1000, 1000 * SPLIT, color=HIGH, alpha=0.07, lw=0)
    axes.axvspan(1000 * SPLIT, 0, color=LOW, alpha=0.07, lw=0)
    uniform = torch.cat([UniformSampler(1, boundary=None, seed=0).sample(step, 8).flatten() for step in range(12)])
    scatter(axes, uniform, 2.6, PLAIN, 0.6)
    for shift in SHIFTS:
        anchors = to_timestep(inference_sigmas(STEPS, shift))
        axes.vlines(anchors, 1.1, 1.5, color=INK, lw=1.4 if shift == 5 else 0.5, alpha=1 if shift == 5 else 0.25)
    for step in range(12):
        scatter(axes, window(step)[:-1], 0, HIGH, 0.3)
        scatter(axes, window(step)[-1:], 0, LOW, 0.3)
    axes.scatter(window(OUTLINED), np.zeros(ROWS), s=46, c=[HIGH] * (ROWS - 1) + [LOW], edgecolors=INK, zorder=3)
    labels = {
        3.0: "uniform timesteps",
        1.66: "the solver's steps under schedule shift 5 (faint: 3, 4, 6)",
        0.4: "Diffusion-APO: twelve windows, one of them outlined",
    }
    for height, label in labels.items():
        axes.text(995, height, label)
    axes.set_xlim(1010, -10)
    axes.set_ylim(-0.5, 4)
    axes.text(995, 3.65, "high noise: four rows", color=HIGH)
    axes.text(790, 3.65, "low noise: one row", color=LOW)
    axes.set_yticks([])
    axes.set_xlabel("timestep t (1000: pure noise, 0: the video)")
    axes.spines[["top", "right", "left"]].set_visible(False)


def scatter(axes: Axes, t: Tensor, height: float, colour: str, alpha: float) -> None:
    """Dots at timesteps t, spread a little in height so that they can be told apart."""
    heights = height + np.random.default_rng(len(t)).uniform(-0.2, 0.2, len(t))
    axes.scatter(t, heights, s=14, color=colour, alpha=alpha, lw=0)


def window(step: int) -> Tensor:
    """(ROWS,) timesteps of one pair at an optimizer step, as `sampler=apo` draws them."""
    sampler = APOSampler(STEPS, SHIFTS, 5, ROWS - 1, 1, 4, SPLIT, boundary=None, seed=0)
    return sampler.sample(step, 1)[:, 0]


def draw_row(axes: Axes) -> None:
    """Both videos at one timestep, through policy and reference, to the loss."""
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 44)
    axes.axis("off")
    clip, t = a_digit(), float(window(OUTLINED)[-1])
    noise = torch.randn(9, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pair = {"chosen": render.render(clip), "rejected": flaws.split(clip, np.random.default_rng(1))}
    for bottom, (name, video) in zip((26, 6), pair.items()):
        strip(axes, video, 1, bottom)
        strip(axes, noisy(video, noise, t), 25, bottom)
        axes.text(1, bottom + 10.2, f"{name} video, $x_0^{'w' if name == 'chosen' else 'l'}$", weight="bold")
        arrow(axes, (20, bottom + 5.5), (24.5, bottom + 5.5))
        for middle in (33, 11):
            arrow(axes, (43.5, bottom + 5.5), (49.5, middle), INK if middle == 33 else PLAIN)
    axes.text(25, 36.2, f"the same noise, t = {t:.0f}", weight="bold")
    box(axes, (50, 27, 14, 12), "policy\n(LoRA, learns)", LOW)
    box(axes, (50, 5, 14, 12), "reference\n(LoRA, frozen)", PLAIN)
    axes.text(57, 22, "one copy of\nthe base weights", ha="center", va="center", style="italic")
    for middle, errors in ((33, "$e^w,\\; e^l$"), (11, "$e^w_{ref},\\; e^l_{ref}$")):
        arrow(axes, (64.5, middle), (68.5, middle))
        axes.text(69, middle, errors, va="center", size=11)
        arrow(axes, (75 if middle == 33 else 77.5, middle), (84, 27.5 if middle == 33 else 16.5))
    box(
        axes,
        (78, 17, 21.5, 10),
        "loss of a row\n$-\\log\\,\\sigma(\\frac{\\beta}{2}\\,[(e^w_{ref}-e^w)$\n$-\\;(e^l_{ref}-e^l)])$",
        HIGH,
    )
    axes.text(
        88.7,
        35,
        "gradients of the window's\nfive rows are summed:\none optimizer step",
        ha="center",
        va="center",
        weight="bold",
    )
    arrow(axes, (88.7, 27.5), (88.7, 31))


def a_digit() -> render.Clip:
    """A clip of a digit that moves enough to be seen in three frames."""
    rng = np.random.default_rng(7)
    clips = (render.random_clip(rng, "train", 0) for _ in range(200))
    return next(clip for clip in clips if max(map(abs, clip.meaning.velocity)) == 2)


def noisy(video: Tensor, noise: Tensor, t: float) -> Tensor:
    """(F, 3, H, W) uint8: what x_t would look like if pixels were latents."""
    scaled = noised(video.float()[None] / 127.5 - 1, noise[None], torch.tensor([t]))[0]
    return ((scaled / 2 + 1) * 127.5).clamp(0, 255).byte()


def strip(axes: Axes, video: Tensor, left: float, bottom: float) -> None:
    """Three frames of a video, side by side."""
    for i, frame in enumerate(video[[0, 4, 8]]):
        start = left + 6.2 * i
        axes.imshow(frame.permute(1, 2, 0).numpy(), extent=(start, start + 5.8, bottom + 2, bottom + 9), aspect="auto")


def box(axes: Axes, place: tuple[float, float, float, float], text: str, colour: str) -> None:
    """A rounded box: left, bottom, width, height."""
    left, bottom, width, height = place
    style = "round,pad=0.1,rounding_size=1.2"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, fc=PAPER, ec=colour, lw=1.6))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.1})


STAGES = (  # stage=, its name, the two videos of a pair, the sign between them, who decides
    ("online", "Online", (OWN, OWN), "≷", "a ranker compares"),
    ("half_online", "Half-online", (PLAIN, OWN), "≷", "the label of\nyour video decides"),
    ("offline", "Offline", (PLAIN, PLAIN), ">", "the pair has a label"),
    ("distill", "Distillation", (), "3  →  1", "the guided teacher's\nforwards become one"),
    ("distill_dpo", "Distillation-aware", (STUDENT, STUDENT), "≷", "a judge compares"),
)


def stages() -> Figure:
    """The five stages: what a pair is in each, and who decides which video is better."""
    figure, axes = plt.subplots(figsize=(8.4, 3))
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 32)
    axes.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99)
    for i, (stage, name, videos, sign, decides) in enumerate(STAGES):
        left = 20.2 * i
        box(axes, (left + 0.3, 7, 17.2, 23), "", STUDENT if "distill" in stage else OWN)
        axes.text(left + 8.9, 27, name, ha="center", va="center", weight="bold", size=8.5)
        draw_pair(axes, left + 8.9, videos, sign)
        axes.text(left + 8.9, 12.8, decides, ha="center", va="center", size=8)
        axes.text(left + 8.9, 8.5, f"stage={stage}", ha="center", va="center", family="monospace", size=7.5)
        if i:
            arrow(axes, (left - 2.4, 18.5), (left, 18.5))
    for left, colour, whose in ((2, OWN, "the present policy"), (34, PLAIN, "your data"), (59, STUDENT, "the student")):
        axes.add_patch(FancyBboxPatch((left, 1.5), 2.4, 2.4, boxstyle="round,pad=0.1", fc=colour, ec="none"))
        axes.text(left + 3.6, 2.6, f"video of {whose}", va="center")
    axes.text(82, 2.6, "→ hands on the adapter", va="center")
    return figure


def draw_pair(axes: Axes, middle: float, videos: tuple[str, ...], sign: str) -> None:
    """Two videos, where there are any, and the sign between them."""
    for left, colour in zip((middle - 6.4, middle + 1.6), videos):
        axes.add_patch(
            FancyBboxPatch((left, 17.4), 4.8, 5.4, boxstyle="round,pad=0.1,rounding_size=0.6", fc=colour, ec="none")
        )
        axes.plot([left + 1.7, left + 1.7, left + 3.5, left + 1.7], [18.6, 21.6, 20.1, 18.6], color="white", lw=1.2)
    axes.text(middle, 20, sign, ha="center", va="center", size=14)


if __name__ == "__main__":
    main()
