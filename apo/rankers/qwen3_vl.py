"""Pairwise ranking with Qwen3-VL, in this process (Appendix C.2)."""

import torch
from torch import Tensor

from apo.config.numbers import Size, Text
from apo.data.domains import DomainRule
from apo.interfaces import Condition, Verdict
from apo.parts import Part, Setting
from apo.policies.model import Dtype, Rate
from apo.rankers.answer import order_averaged, verdict
from apo.rankers.folders import check_device, check_paths, require_videos


class Qwen3VLRanker(Part):
    """One label of four from the answer token's probabilities. Weights load at the first call.

    path: model folder or hub id; rankers of equal path, dtype, frames, fps and device share one copy. adapter: LoRA
    folder, or None. domains: whose prompt each condition gets. batch_size: pairs at once. swap_averaging: both orders
    of a pair are judged and averaged, so that the verdict does not depend on the order; costs twice the time.
    """

    is_model = True

    def __init__(
        self,
        path: Text,
        adapter: Text | None,
        domains: DomainRule,
        frames: Size,
        fps: Rate,
        dtype: Dtype,
        device: Text,
        batch_size: Size,
        swap_averaging: bool,
    ):
        self.path, self.adapter, self.domains = path, adapter, domains
        self.frames, self.fps, self.dtype, self.device = frames, fps, dtype, device
        self.batch_size, self.swap_averaging = batch_size, swap_averaging

    def check(self, setting: Setting) -> None:
        """UserError names what is missing, or what the model can't judge, and the remedy; loads nothing."""
        check_paths("ranker", self.path, self.adapter)
        check_device("ranker.device", self.device)
        require_videos("ranker.path", self.path, setting.spec)
        self.domains.check(setting.rows)

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        result = verdict(self.probabilities(first, second, self.domains(cond)))
        return Verdict(result.label.to(first.device), result.confidence.to(first.device))

    @torch.no_grad()
    def probabilities(self, first: Tensor, second: Tensor, domains: list[str]) -> Tensor:
        """(B, 4) of the labels 1..4."""
        from apo.rankers.vlm import shared  # transformers takes seconds

        vlm = shared(self.path, self.dtype, self.frames, self.fps, self.device, self.domains.prompts)
        adapter = None if self.adapter is None else vlm.load_adapter(self.adapter)
        parts = []
        with vlm.using(adapter):
            for start in range(0, len(first), self.batch_size):
                part = slice(start, start + self.batch_size)
                given = vlm.probabilities(first[part], second[part], domains[part])
                if self.swap_averaging:
                    given = order_averaged(given, vlm.probabilities(second[part], first[part], domains[part]))
                parts.append(given)
        return torch.cat(parts)
