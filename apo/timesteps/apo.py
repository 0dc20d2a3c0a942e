"""The timestep sampler of Diffusion-APO (Section 3.2): random shift, random offset, hybrid sliding window."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated

import torch
from torch import Tensor

from apo.config.numbers import NonNegative, Positive, Range, Rows, Seed, Share
from apo.distributed import replica, replicas
from apo.flow import inference_sigmas, to_timestep
from apo.interfaces import T
from apo.random import generator
from apo.timesteps.base import Sampler


@dataclass
class APOSampler(Sampler):
    """Anchors of the inference grid under a random shift, a Gaussian offset around each, K rows a window.

    A row holds one anchor for all pairs, so it lies on one side of the expert boundary by construction;
    its offsets are clipped to that side and to its regime.
    """

    num_inference_steps: Rows
    shifts: Sequence[Positive]  # the set S of Section 3.2; one element switches random shift off
    offset_variance: NonNegative  # γ² of Section 3.2, in squared timesteps; 0 switches random offset off
    high_rows: Annotated[int, Range(0, 1000)]  # N_H
    low_rows: Annotated[int, Range(0, 1000)]  # N_L
    stride: Annotated[int, Range(0, 1000)]  # high anchors that the window advances by, each optimizer step
    split: Share  # the regimes meet at split · T
    boundary: Share | None  # the expert boundary as a share of T; None for one expert
    seed: Seed
    snap: bool = False  # round t' to the nearest anchor instead of the nearest integer
    accumulate: bool = True  # False: the window's rows one by one, an optimizer step each ("no window")

    def __post_init__(self):
        if min(self.high_rows, self.low_rows) < 0 or self.stride < 0 or self.offset_variance < 0:
            raise ValueError(
                f"sampler.high_rows={self.high_rows}, sampler.low_rows={self.low_rows}, sampler.stride={self.stride}, "
                f"sampler.offset_variance={self.offset_variance}: give numbers of at least 0"
            )
        if isinstance(self.shifts, Real) or not self.shifts:
            raise ValueError(f"sampler.shifts={self.shifts}: give a list of shifts, such as [3, 4, 5, 6]")
        if self.high_rows + self.low_rows < 1:
            raise ValueError("the window is empty: set sampler.high_rows or sampler.low_rows above 0")
        if self.num_inference_steps < 2 or min(self.shifts) <= 0:
            raise ValueError(
                f"sampler.num_inference_steps={self.num_inference_steps}, sampler.shifts={list(self.shifts)}: "
                "the grid needs at least 2 steps and shifts above 0"
            )
        for shift in self.shifts:
            high = to_timestep(inference_sigmas(self.num_inference_steps, shift)) >= self.split * T
            if (self.high_rows and not high.any()) or (self.low_rows and high.all()):
                raise ValueError(
                    f"sampler.num_inference_steps={self.num_inference_steps}, sampler.shifts={list(self.shifts)}: "
                    f"with shift {shift:g} "
                    f"no step lies {'below' if high.all() else 'above'} {self.split:g} T, where the window has rows: "
                    "take more steps"
                )

    def sample(self, step: int, batch_size: int) -> Tensor:
        """(K, B) timesteps in [0, T] of optimizer step `step`."""
        rows = self.high_rows + self.low_rows
        if self.accumulate:
            return self._window(step, batch_size)
        return self._window(step // rows, batch_size)[step % rows, None]

    def anchors(self, step: int) -> Tensor:
        """(num_inference_steps,) the timesteps of the inference grid under the step's shift, falling."""
        choice = torch.randint(len(self.shifts), (), generator=generator(self.seed, step, 0))
        return to_timestep(inference_sigmas(self.num_inference_steps, self.shifts[int(choice)]))

    def _window(self, step: int, batch_size: int) -> Tensor:
        anchors = self.anchors(step)
        high, low = anchors[anchors >= self.split * T], anchors[anchors < self.split * T]
        rows = [
            self._row(high[i % len(high)], (self.split * T, T)) for i in _advance(step, self.high_rows, self.stride)
        ]
        rows += [self._row(low[i % len(low)], (0, self.split * T - 1)) for i in _advance(step, self.low_rows, 1)]
        offsets = torch.randn(len(rows), batch_size * replicas(), generator=generator(self.seed, step, 1))
        offsets = offsets[:, replica() * batch_size :][:, :batch_size] * self.offset_variance**0.5
        window = []
        for (anchor, (floor, ceiling)), offset in zip(rows, offsets):
            t = anchor + offset
            t = anchors[(t[:, None] - anchors).abs().argmin(1)] if self.snap else t.round()
            window.append(t.clamp(floor, ceiling))
        return torch.stack(window)

    def _row(self, anchor: Tensor, regime: tuple[float, float]) -> tuple[Tensor, tuple[float, float]]:
        """The anchor with the range its offsets may reach: its regime, on its side of the expert boundary."""
        floor, ceiling = regime
        if self.boundary is not None:
            if anchor >= self.boundary * T:
                floor = max(floor, self.boundary * T)
            else:
                ceiling = min(ceiling, self.boundary * T - 1)
        return anchor, (floor, ceiling)


def _advance(step: int, rows: int, stride: int) -> range:
    """Indices of `rows` consecutive anchors after `step` moves of `stride`."""
    return range(step * stride, step * stride + rows)
