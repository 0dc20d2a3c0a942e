"""A ranker for each domain (Appendix C): criteria differ between people and everything else."""

from dataclasses import replace

import torch
from torch import Tensor

from apo.interfaces import Condition, Ranker, Verdict
from apo.rankers.domains import DomainRule


class ByDomainRanker:
    """Sends each pair to its domain's ranker. ValueError names a domain that has none."""

    def __init__(self, domains: DomainRule, rankers: dict[str, Ranker]):
        self.domains, self.rankers = domains, dict(rankers)

    def check(self, spec) -> None:
        """That the rule leads to known domains, and the checks of those rankers that have some."""
        self.require({self.domains.default, *self.domains.rules.values()})
        for ranker in self.rankers.values():
            if hasattr(ranker, "check"):
                ranker.check(spec)

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        domains = self.domains(cond)
        self.require(set(domains))
        label = torch.zeros(len(first), dtype=torch.long, device=first.device)
        confidence = torch.zeros(len(first), device=first.device)
        for domain in sorted(set(domains)):
            of_domain = torch.tensor([d == domain for d in domains], device=first.device)
            part = self.rankers[domain](first[of_domain], second[of_domain], select(cond, of_domain, domain))
            label[of_domain], confidence[of_domain] = part.label, part.confidence
        return Verdict(label, confidence)

    def require(self, domains: set[str]) -> None:
        if unknown := sorted(domains - self.rankers.keys()):
            raise ValueError(
                f"domain={unknown[0]!r} has no ranker; there are {', '.join(sorted(self.rankers))}: add ranker.rankers.{unknown[0]}, "
                "or correct the data's domain or ranker.domains"
            )


def select(cond: Condition, of_domain: Tensor, domain: str) -> Condition:
    """The conditions where `of_domain` (B,) is true, said to be of that domain."""
    prompt = [prompt for prompt, chosen in zip(cond.prompt, of_domain.tolist()) if chosen]
    return replace(cond.map(lambda value: value[of_domain.to(value.device)]), prompt=prompt, domain=[domain] * len(prompt))
