"""Step 1 of `make ranker-world`: the base of the world's rankers, a tiny Qwen3-VL from random weights.

The paper's base knows what videos show before it learns to rank them. So that this one does too, a linear head reads
from its hidden states, frame by frame, what the oracle measures there, while the model ranks; the head is left out of
the result. Slowed videos (Appendix C.1) are not shown: what they are worth is measured on the adapters.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from apo.interfaces import Condition
from apo.rankers.answer import frame_places
from apo.rankers.vlm import TrainableVLM
from apo.world.build.loop import muon_and_adamw, train
from apo.world.build.vlm import TEMPORAL
from apo.world.candidates import DOMAINS, clip_of, rendered
from apo.world.grammar import describe
from apo.world.oracle import THRESHOLDS, excess, severities, tracks
from apo.world.rankings import GENERATED, SCENES, Place, WorldRankings
from apo.world.render import render
from apo.world.tracking import Track

STEPS, BATCH, RATE, SEED = 3000, 16, 2e-3, 23
LAYER = -2  # of the hidden states that the head reads; the last layer compares what it finds there
FIRST_RENDERED = 10**6  # conditions of the rendered pairs: others than the adapters'
SEEN = ("severity", "similarity", "mass", "spill", "colour", "local", "background", "brightness", "down", "right")
SAVE_EVERY = 50  # steps
WEIGHT = 5.0  # of what is seen, beside the ranking


class Sight(nn.Module):
    """A ranking model and what can be read from its hidden states."""

    def __init__(self, vlm: TrainableVLM):
        super().__init__()
        self.vlm = vlm
        size = vlm.model.config.text_config.hidden_size
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, TEMPORAL * len(SEEN)))
        tokenizer = vlm.processor.tokenizer
        self.pad, self.end = tokenizer.convert_tokens_to_ids(["<|video_pad|>", "<|vision_end|>"])

    def forward(self, first: Tensor, second: Tensor, domain: str) -> tuple[Tensor, Tensor]:
        """(B, vocabulary) logits of the answer; (B, 2, frames, SEEN) measurements of both videos (B, F, 3, H, W)."""
        inputs = self.vlm.inputs(first, second, [domain] * len(first))
        with torch.autocast("cpu", self.vlm.autocast):
            out = self.vlm.model(**inputs, logits_to_keep=1, output_hidden_states=True)
        tokens = inputs["input_ids"]
        ends = (tokens == self.end) & (tokens.roll(1, 1) == self.pad)  # one after every TEMPORAL frames
        seen = self.head(out.hidden_states[LAYER][ends].float())
        return out.logits[:, -1].float(), seen.view(len(first), 2, self.vlm.frames, len(SEEN))

    def loss(self, batch: tuple) -> Tensor:
        """Cross entropy of the answer token and the smooth L1 distance to what the oracle measures."""
        first, second, domain, label, sure, measured = batch
        logits, seen = self(first, second, domain)
        answers = torch.tensor(self.vlm.answers)
        ranked = (sure * nnf.cross_entropy(logits, answers[label - 1], reduction="none")).sum() / sure.sum().clamp(
            min=1
        )
        return ranked + WEIGHT * nnf.smooth_l1_loss(seen, measured, beta=0.3)


def measurements(videos: Tensor, prompts: list[str], frames: Tensor) -> Tensor:
    """(n, F, SEEN) what the oracle measures in each frame, on about the same scale."""
    found = torch.empty(*videos.shape[:2], len(SEEN))
    for chunk, _, track in tracks(videos, prompts, frames):
        found[chunk] = scaled(track)
    return found


def scaled(track: Track) -> Tensor:
    """(n, F, SEEN)"""
    limits = THRESHOLDS
    errors = [
        track.colour_error / limits.colour,
        track.local_error / limits.local,
        track.background_error / limits.background,
    ]
    moved = (track.position - track.start[:, None]) / 8
    columns = [severities(excess(track)), track.similarity, track.mass, track.spill, *errors, track.brightness / 60]
    return torch.stack([*columns, *moved.unbind(-1)], -1).clamp(-3, 3)


class Pairs:
    """What is ranked at each step: rendered with planted flaws, or from the baseline's videos in `source`'s cache."""

    def __init__(self, source: WorldRankings, conditions: dict[str, int], frames: int):
        self.source, self.conditions, self.frames = source, conditions, frames

    def __call__(self, step: int) -> tuple:
        """Two videos (B, F, 3, H, W), their domain, (B,) label and whether the annotator is sure, (B,
        2, frames, SEEN).
        """
        rng = np.random.default_rng([SEED, step])
        domain = DOMAINS[int(rng.random() < SCENES)]
        drawn = rng.random() < self.source.generated_share
        indices = (
            rng.integers(self.conditions[domain], size=BATCH)
            if drawn
            else FIRST_RENDERED + BATCH * step + np.arange(BATCH)
        )
        clips = [clip_of("train", domain, self.source.seed, int(index)) for index in indices]
        if drawn:
            videos = [self.source.generated(Place(GENERATED, "train", domain), int(index)) for index in indices]
            pairs = [video[torch.from_numpy(rng.permutation(len(video))[:2])] for video in videos]
        else:
            pairs = [torch.stack([rendered(clip, rng) for _ in range(2)]) for clip in clips]
        first, second = torch.stack(pairs, 1)
        prompts, frames = [describe(clip.meaning) for clip in clips], torch.stack([render(clip)[0] for clip in clips])
        verdict = self.source.annotator(first, second, Condition(prompts, torch.empty(0), torch.empty(0), frame=frames))
        measured = torch.stack([measurements(videos, prompts, frames) for videos in (first, second)], 1)
        sure = verdict.confidence >= self.source.min_confidence
        return first, second, domain, verdict.label, sure, measured[:, :, frame_places(measured.shape[2], self.frames)]


def build(
    folder: Path, init: Path, source: WorldRankings, conditions: dict[str, int], frames: int, steps: int = STEPS
) -> None:
    """Trains (or resumes) the base and writes its model folder to folder/base.

    source: annotator and cache; conditions: of each domain, whose generated videos are shown.
    """
    vlm = TrainableVLM(
        str(init), "float32", frames, source.model.spec.fps, None, None, SEED, False, autocast="bfloat16"
    )
    torch.manual_seed(SEED)
    model, pairs = Sight(vlm), Pairs(source, conditions, frames)
    matrices = [p for name, p in vlm.model.named_parameters() if p.ndim == 2 and "embed" not in name]
    optimizers = muon_and_adamw(model, matrices, RATE, decay=0.01)
    train("base", folder, model, optimizers, steps, lambda step: model.loss(pairs(step)), save_every=SAVE_EVERY)
    vlm.save_adapter(folder / "base")
