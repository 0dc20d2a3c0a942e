"""What a ranking model is asked and what its answer means (Appendix C.2): one place for training, ranking and serving.

The videos come first, as `Video 1` and `Video 2`, then the domain's text; the answer is one token, a label of four.
"""

import re

import torch
from torch import Tensor

from apo.errors import UserError
from apo.interfaces import Verdict

LABELS = (
    "1",
    "2",
    "3",
    "4",
)  # 1, 2: first or second video is less distorted; 3, 4: similar, first or second moves more
SWAP = (1, 0, 3, 2)  # place of each label when the two videos are exchanged
FRAMES = 40  # Appendix C.2: both videos are standardised to it


def frame_places(frames: int, count: int = FRAMES) -> Tensor:
    """(count,) uniformly spread indices of `frames` frames, first and last included."""
    return torch.linspace(0, frames - 1, count, dtype=torch.float64).round().long()


def standard_frames(video: Tensor, count: int = FRAMES) -> Tensor:
    """(..., count, 3, H, W): the frames of (..., F, 3, H, W) at `frame_places`."""
    return video.index_select(-4, frame_places(video.shape[-4], count).to(video.device))


def parse_label(text: str) -> int:
    """1..4 of an answer such as '3', ' 3.' or '**3**: ...'; UserError says what was got instead."""
    if (found := re.match(r"\W*([1-4])(?![\w]|[.,]\d)", text)) is None:
        raise UserError(
            f"the ranker answered {text[:80]!r} where one of 1, 2, 3, 4 was asked for: is it a model for this prompt?"
        )
    return int(found[1])


def require_verdict(given: Verdict, size: int) -> Verdict:
    """The verdict on the CPU, if it is one on `size` pairs; UserError says what was got instead."""
    label, confidence = given.label.cpu(), given.confidence.cpu()
    if label.shape != (size,) or confidence.shape != (size,):
        raise UserError(
            f"the ranker judged {tuple(label.shape)} pairs with {tuple(confidence.shape)} confidences where "
            f"there are {size}"
        )
    if wrong := sorted(set(label.tolist()) - {1, 2, 3, 4}):
        raise UserError(f"the ranker gave label {wrong[0]} where one of 1, 2, 3, 4 was asked for")
    if not ((confidence >= 0) & (confidence <= 1)).all():  # neither is true of NaN
        raise UserError(f"the ranker gave confidences {confidence.tolist()[:8]} where numbers in [0, 1] were asked for")
    return Verdict(label, confidence)


def swapped(label: Tensor) -> Tensor:
    """Labels in 1..4 of the same pairs with the two videos exchanged."""
    return torch.tensor(SWAP, device=label.device)[label - 1] + 1


def order_averaged(probabilities: Tensor, of_swapped: Tensor) -> Tensor:
    """(B, 4): label probabilities of pairs and those of the same pairs exchanged, averaged. Has no position bias."""
    return (probabilities + of_swapped[:, list(SWAP)]) / 2


def verdict(probabilities: Tensor) -> Verdict:
    """The verdict of label probabilities (B, 4), rows summing to 1.

    The winner is the video with more probability on its two labels, since that is what preference training uses; the
    label is the likelier of its two. Confidence is the winner's probability, in [0.5, 1].
    """
    if not probabilities.isfinite().all():
        raise UserError(f"the ranking model gave probabilities that are no numbers: {probabilities.tolist()[:4]}")
    sides = probabilities.unflatten(1, (2, 2)).sum(1)  # (B, 2): first wins (labels 1, 3), second wins (2, 4)
    confidence, winner = sides.max(1)
    more_motion = probabilities.unflatten(1, (2, 2))[torch.arange(len(sides)), :, winner].argmax(1)
    return Verdict(1 + winner + 2 * more_motion, confidence.clamp(max=1.0))
