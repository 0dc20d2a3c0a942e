"""`ranker=oracle`: the world's exact judge as a pairwise ranker, with an error rate like an annotator's."""

import hashlib

import torch
from torch import Tensor

from apo.interfaces import Condition, Verdict
from apo.rankers.answer import swapped
from apo.world.oracle import measure
from apo.world.render import FRAMES, SIZE

NOTICEABLE = 0.25  # px/frame: a difference in motion that the oracle's tests call one


class OracleRanker:
    """The less severely distorted video wins (labels 1, 2); of two alike the one that moves more (3, 4).

    error_rate: share of the pairs, in [0, 0.5], whose winner is exchanged; a pair's own content and `seed` decide, so that
    a resumed run errs on the same pairs, whichever video comes first.
    similar: severities (`apo.world.oracle.severity`, in [0, 1]) that differ by no more are alike.
    spec: of the videos that are to be judged (`model.spec`).
    """

    def __init__(self, error_rate: float, similar: float, seed: int, spec):
        self.error_rate, self.similar, self.seed, self.spec = error_rate, similar, seed, spec
        if not 0 <= error_rate <= 0.5:
            raise ValueError(f"ranker.error_rate={error_rate}: give a share in [0, 0.5]; at 0.5 the winner is a coin's")
        if similar < 0:
            raise ValueError(f"ranker.similar={similar}: give a difference of severities, at least 0")

    def check(self) -> None:
        """ValueError unless the videos are of the world's size."""
        found = (self.spec.frames, self.spec.height, self.spec.width)
        if found != (FRAMES, SIZE, SIZE):
            raise ValueError(
                "ranker=oracle judges videos of the world, {} frames of {} x {}, and model.spec has {} of {} x {}: ".format(
                    FRAMES, SIZE, SIZE, *found
                ) + "use model=tiny, or ranker=qwen3_vl, by_domain or served"
            )

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        """Confidence is the probability that the winner is right: 1 − error_rate for a difference that can be seen, falling
        to 0.5 for motion that is the same (then the pair's content draws the winner).

        ValueError for a prompt that is not the world's, or a condition without its first frame in pixels.
        """
        if cond.frame is None:
            raise ValueError("the condition has no first frame in pixels: set Condition.frame to (B, 3, 64, 64) uint8")
        try:
            one, two = (measure(video, cond.prompt, cond.frame.to(video.device)) for video in (first, second))
        except ValueError as error:
            raise ValueError(f"ranker=oracle judges the world only: {error}; or use ranker=qwen3_vl, by_domain or served") from None
        worse, faster = one.severity - two.severity, one.speed - two.speed
        alike = worse.abs() <= self.similar
        draws = [self.draw(*pair) for pair in zip(first, second, cond.prompt)]
        coin = torch.tensor([first_drawn for first_drawn, _ in draws], device=worse.device)
        errs = torch.tensor([error < self.error_rate for _, error in draws], device=worse.device)
        first_wins = torch.where(alike, torch.where(faster == 0, coin, faster > 0), worse < 0)
        label = torch.where(first_wins, 1, 2) + 2 * alike
        seen = torch.where(alike, (faster.abs() / NOTICEABLE).clamp(max=1), 1.0)
        return Verdict(torch.where(errs, swapped(label), label), 0.5 + (0.5 - self.error_rate) * seen)

    def draw(self, first: Tensor, second: Tensor, prompt: str) -> tuple[bool, float]:
        """(whether the pair's coin falls on the first video, a number in [0, 1)) from the pair's content and the seed."""
        ours, theirs = (hashlib.sha256(video.cpu().numpy().tobytes()).digest() for video in (first, second))
        both = hashlib.sha256(b"".join([str(self.seed).encode(), prompt.encode(), *sorted([ours, theirs])])).digest()
        return (ours < theirs) == bool(both[0] & 1), int.from_bytes(both[1:8]) / 2**56
