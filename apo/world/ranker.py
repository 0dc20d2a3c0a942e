"""`ranker=oracle`: the world's exact judge as a pairwise ranker, with an error rate like an annotator's."""

import hashlib

import torch
from torch import Tensor

from apo.config.numbers import Seed, Share
from apo.errors import UserError
from apo.interfaces import Condition, Verdict
from apo.parts import Part, Setting
from apo.rankers.answer import swapped
from apo.world.conditions import require_sentences, require_world
from apo.world.oracle import measure

OTHERS = "ranker=qwen3_vl_8b, by_domain_8b or served"
NOTICEABLE = 0.25  # px/frame: a difference in motion that the oracle's tests call one


class OracleRanker(Part):
    """The less severely distorted video wins (labels 1, 2); of two alike the one that moves more (3, 4).

    error_rate: share of the pairs, in [0, 0.5], whose winner is exchanged; prompt, first frame, how bright each video
    is and `seed` decide, so that a resumed run errs on the same pairs, whichever video comes first. similar: severities
    (`apo.world.oracle.severity`, in [0, 1]) that differ by no more are alike.
    """

    is_model = False

    def __init__(self, error_rate: Share, similar: Share, seed: Seed):
        self.error_rate, self.similar, self.seed = error_rate, similar, seed
        if not 0 <= error_rate <= 0.5:
            raise UserError(f"ranker.error_rate={error_rate}: give a share in [0, 0.5]; at 0.5 the winner is a coin's")

    def check(self, setting: Setting) -> None:
        """UserError unless the videos are of the world's size and the prompts its sentences."""
        require_world(setting.spec, "ranker=oracle", OTHERS)
        require_sentences(setting.rows, "ranker=oracle", OTHERS)

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        """Confidence is the probability that the winner is right: 1 − error_rate for a difference that can be seen,
        falling to 0.5 for motion that is the same. Then the brighter video wins, or the darker one, as the condition
        draws.

        ValueError for a prompt that is not the world's, or a condition without its first frame in pixels.
        """
        if cond.frame is None:
            raise ValueError("the condition has no first frame in pixels: set Condition.frame to (B, 3, 64, 64) uint8")
        try:
            one, two = (measure(video, cond.prompt, cond.frame.to(video.device)) for video in (first, second))
        except ValueError as error:
            raise UserError(f"ranker=oracle judges the world only: {error}; or use {OTHERS}") from None
        worse, faster = one.severity - two.severity, one.speed - two.speed
        alike = worse.abs() <= self.similar
        # a tie must not hang on a pixel's rounding, or one rank and two would disagree; hence brightness and not a hash
        brighter = first.sum((1, 2, 3, 4)) > second.sum((1, 2, 3, 4))
        coin = [self.draw(prompt.encode(), content(frame)) < 0.5 for prompt, frame in zip(cond.prompt, cond.frame)]
        tie = brighter == torch.tensor(coin, device=brighter.device)
        first_wins = torch.where(alike, torch.where(faster == 0, tie, faster > 0), worse < 0)
        draws = [
            self.draw(prompt.encode(), content(frame), *sorted(map(brightness, pair)))
            for prompt, frame, *pair in zip(cond.prompt, cond.frame, first, second)
        ]
        errs = torch.tensor(draws, device=worse.device) < self.error_rate
        label = torch.where(first_wins, 1, 2) + 2 * alike
        seen = torch.where(alike, (faster.abs() / NOTICEABLE).clamp(max=1), 1.0)
        return Verdict(torch.where(errs, swapped(label), label), 0.5 + (0.5 - self.error_rate) * seen)

    def draw(self, *parts: bytes) -> float:
        """A number in [0, 1) that depends on the parts and the seed alone."""
        digest = hashlib.sha256(b"\0".join([str(self.seed).encode(), *parts])).digest()
        return int.from_bytes(digest[:6]) / 2**48


def brightness(video: Tensor) -> bytes:
    """To a quarter of a level: other batches and other ranks round some pixels differently, but hardly their mean."""
    return str(round(4 * video.double().mean().item())).encode()


def content(pixels: Tensor) -> bytes:
    return hashlib.sha256(pixels.cpu().numpy().tobytes()).digest()
