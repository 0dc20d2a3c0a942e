"""What the parts of the house hand to each other. The method, whole:

    sample = source(batch, policy, step)
    for row in window.rows(policy, sample, step):   # ∇L_total = Σ_{t∈W} ∇L_APO(t), Section 3.2
        for part in loss(policy, sample, row):
            backward(part.value)
    optimizer.step()

Shapes: B pairs, K window rows, C latent channels, F latent frames, H x W latent height and width,
L text tokens of width D. Timesteps t lie in [0, T] with T = 1000; noise levels sigma = t / T.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from apo import parts
from apo.parts import Setting

T = 1000  # training timesteps of every Wan model


@dataclass
class Condition:
    """What a video is generated from."""

    prompt: list[str]
    text: Tensor  # (B, L, D) text encoder output, zero beyond the prompt's tokens
    image: (
        Tensor  # (B, 4 + C, F, H, W) first-frame mask (4 channels), then the encoded first frame, zero-padded in time
    )
    image_embeds: Tensor | None = None  # (B, tokens, D') CLIP features of the first frame (Wan2.1)
    frame: Tensor | None = None  # (B, 3, height, width) uint8, the first frame in pixels
    domain: list[str] | None = None  # of each condition, where the data says; what `ranker=by_domain` routes by

    def __getitem__(self, places: Sequence[int]) -> "Condition":
        """The conditions at some places, in their order; a place may come twice."""

        def pick(value):
            return value[places] if isinstance(value, Tensor) else value and [value[i] for i in places]

        places = list(places)
        return Condition(**{key: pick(value) for key, value in vars(self).items()})

    @staticmethod
    def cat(*conditions: "Condition") -> "Condition":
        """Conditions one after another in one batch."""

        def join(values: list):
            if isinstance(values[0], Tensor):
                return torch.cat(values)
            return values[0] and [item for value in values for item in value]

        return Condition(**{key: join([vars(c)[key] for c in conditions]) for key in vars(conditions[0])})

    def to(self, device: torch.device | str) -> "Condition":
        moved = {key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass
class Pair:
    """Chosen and rejected latents x_0^w, x_0^l, (B, C, F, H, W) each, of one condition."""

    chosen: Tensor
    rejected: Tensor
    cond: Condition


@dataclass
class Verdict:
    """A ranker's answer to 'which of two videos is better, and why' (Appendix C.2)."""

    label: Tensor  # (B,) in 1..4: 1, 2 first or second is less distorted; 3, 4 first or second moves more
    confidence: Tensor  # (B,) in [0, 1]

    @property
    def first_wins(self) -> Tensor:
        return self.label % 2 == 1


@dataclass
class Row:
    """One row of an optimizer step's window. A loss without noise levels, such as a ranker's, has one row of step
    alone.
    """

    step: int  # optimizer step
    index: int = 0  # of the row in the window
    last: bool = True  # no later row of the window trains this row's expert
    t: Tensor | None = None  # (B,) timesteps in [0, T], on one side of the expert boundary
    noise: Tensor | None = None  # ε (B, C, F, H, W), shared by the videos of a pair


@dataclass
class Term:
    """A scalar that a loss gives of a row, to be backpropagated before the loss goes on."""

    value: Tensor
    last: bool = True  # the row's last: no other gradient of this row follows
    meters: dict[str, Tensor] = field(default_factory=dict)  # scalars to log, such as train/loss; seconds as time/...
    watched: dict[str, Tensor] = field(default_factory=dict)  # as of `Loss.watched`


class TimestepSampler(Protocol):
    def sample(self, step: int, batch_size: int) -> Tensor:
        """(K, B) timesteps in [0, T] of optimizer step `step`; row k is one backward pass.

        Stateless in step, so a resumed run draws the same. All entries of a row, on all ranks, lie on one side
        of the expert boundary.
        """


class PreferenceObjective(Protocol):
    def __call__(self, chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
        """Loss (B,) from denoising errors (B,) in fp32, means over C, F, H, W."""


class Policy(Protocol):
    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Velocity (B, C, F, H, W) at timesteps t (B,). Routes by t >= boundary * T; ValueError if t straddles it."""

    def error(self, x_t: Tensor, t: Tensor, cond: Condition, target: Tensor) -> Tensor:
        """(B,) denoising error against the velocity `target`, over the latent frames that are generated."""

    def reference(self) -> AbstractContextManager:
        """Inside, the policy is the frozen preceding stage (its adapter, or none)."""

    def keep(self, name: str) -> None:
        """Adds a frozen copy of the adapter as it is now; of a name that is kept already, nothing happens."""

    def using(self, name: str | None) -> AbstractContextManager:
        """Inside, the policy is the copy `name`; with None the base model without any adapter."""

    def move(self, name: str, toward: str = "policy", share: float = 1.0) -> None:
        """Moves the copy `name` by a share of the way toward the trained adapter or another copy; 1
        makes them equal.
        """

    def skip(self, blocks: Sequence[int], start: int = 0) -> AbstractContextManager:
        """Inside, these transformer blocks are the identity for batch rows from `start` on (STG's weak model)."""

    def unconditional(self, cond: Condition) -> Condition:
        """The same condition with the negative prompt's text."""

    def encode(self, video: Tensor) -> Tensor:
        """Normalised latents (B, C, F, H, W) of videos (B, frames, 3, height, width) uint8."""

    def decode(self, latents: Tensor) -> Tensor:
        """Videos (B, frames, 3, height, width) uint8 of normalised latents; undoes `encode`."""

    def encode_condition(self, prompt: list[str], frame: Tensor) -> Condition:
        """The condition of prompts and first frames (B, 3, height, width) uint8."""

    def save_adapter(self, folder) -> None: ...

    def load_adapter(self, folder) -> None: ...


class Source(parts.Part, Protocol):
    """Where samples come from: a data set, or the policy itself.

    generated: videos of a condition that the policy makes. rollout: how (`apo.sources.rollout.Rollout`); None if it
    makes none.
    """

    generated: int = 0
    rollout: Any = None

    meters: dict[str, Tensor]  # scalars of the last call, logged with the step: time/generate, time/rank, rank/...

    def __call__(self, batch, policy: Policy, step: int) -> Pair:
        """Exactly B pairs, no gradient."""

    def judged(self) -> int:
        """Pairs of videos of a condition that a ranking model compares."""
        return 0

    def state(self) -> Any:
        """What it remembers between steps, for a checkpoint. Collective; None for nothing."""
        return None

    def load(self, state: Any) -> None:
        """Takes what `state` gave, in a run of any number of ranks."""


class Loss(parts.Part, Protocol):
    """Which predictions a window row makes, and what scalars come of them. Knows nothing of Lightning or of ranks."""

    def __call__(self, policy: Policy, sample: Pair, row: Row) -> Iterator[Term]:
        """Scalars whose gradients add up to the row's. Each is backpropagated before the next is computed."""

    def held_out(self, policy: Policy, sample: Pair, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Scalars of samples that are not trained on, at timesteps t (B,) and noise (B, C, F, H, W),
        without gradient.
        """
        return {}

    def watched(self, sample: Pair) -> dict[str, Tensor]:
        """Whether what the gradient comes from is finite; each key says what is wrong if it is not, and the remedy."""
        return {}


class DataRow(Protocol):
    """A row of the user's data, as far as a ranker or an evaluator can look at it before anything is generated."""

    line: int  # of the manifest
    prompt: str
    domain: str | None


class Ranker(Protocol):
    """Cheap to build: weights are loaded and servers asked at the first call."""

    is_model: bool  # whether a verdict takes forwards of a ranking model

    def check(self, setting: Setting) -> None:
        """Before any model is loaded: ValueError names the field and the remedy (a folder or a server that isn't
        there).
        """

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        """first, second: (B, frames, 3, height, width) uint8."""


class Conditions(Protocol):
    """What evaluate.py generates from."""

    rows: Sequence[DataRow] = ()  # of the user's manifest; empty where prompts are made, not read
    identity: str | None = (
        None  # a hash of what the config does not say: a manifest's content. None if the config says all
    )
    results = "eval"  # folder of the results in the run folder, where evaluate.py is given none

    def check(self, setting: Setting) -> None:
        """Before any model is loaded: ValueError unless they suit videos of the model's size."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> tuple[list[str], Tensor]:
        """Prompts and first frames (B, 3, height, width) uint8 of conditions start..stop-1."""


@dataclass(frozen=True)
class Criterion:
    """A yes-or-no column of an evaluator's rows, by which videos of one condition are compared: the better one wins,
    equals tie.
    """

    metric: str  # the key of report.json that sums it up
    column: str
    better: bool  # the value of the better video
    good: str  # what tables and captions call the better videos ("clean")
    bad: str  # and the others ("distorted")
    reason: str | None = None  # column of texts that say why a video is bad; '' where it isn't

    def wins(self, row: dict) -> bool:
        return row[self.column] == self.better


class Evaluator(Protocol):
    """Cheap to build. One that a process group shares adds up over ranks in `compute`."""

    rows: list[dict]  # one of each video, in order: its prompt, and whatever was found
    criteria: Sequence[
        Criterion
    ]  # the first one decides `win`, `tie` and `loss` of report.json; none: arms are shown side by side only

    def check(self, setting: Setting) -> None:
        """As of `Ranker`."""

    def update(self, videos: Tensor, cond: Condition) -> None:
        """videos: (B, frames, 3, height, width) uint8."""

    def compute(self) -> dict:
        """Name of each metric -> `apo.intervals.Interval`."""


class Guidance(Protocol):
    skips_blocks: bool  # whether a forward of it leaves out some of the transformer's blocks

    def check(self, setting: Setting) -> None:
        """Before any model is loaded: ValueError unless the model can be guided so."""

    def __call__(self, policy: Policy, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Guided velocity (B, C, F, H, W), Eq. 3: (1+ω)·v_c − ω·v_∅ + λ·(v_c − v_skip)."""
