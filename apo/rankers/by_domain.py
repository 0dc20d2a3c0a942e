"""A ranker for each domain (Appendix C): criteria differ between people and everything else."""

from dataclasses import replace

import torch
from torch import Tensor

from apo.data.domains import DomainRule
from apo.errors import UserError
from apo.interfaces import Condition, Ranker, Verdict
from apo.parts import Part, Setting


class ByDomainRanker(Part):
    """Sends each pair to its domain's ranker. UserError names a domain that has none."""

    def __init__(self, domains: DomainRule, rankers: dict[str, Ranker]):
        self.domains, self.rankers = domains, dict(rankers)

    @property
    def is_model(self) -> bool:
        return any(ranker.is_model for ranker in self.rankers.values())

    def check(self, setting: Setting) -> None:
        """That the rule and the data lead to known domains, and each ranker's own check for the rows that it will
        judge.
        """
        self.require(set(self.domains.known(setting.rows)))
        for domain, ranker in self.rankers.items():
            own = [row for row in setting.rows if self.domains.of(row.prompt, row.domain) == domain]
            ranker.check(replace(setting, rows=own))

    def __call__(self, first: Tensor, second: Tensor, cond: Condition) -> Verdict:
        domains = self.domains(cond)
        self.require(set(domains))
        label = torch.zeros(len(first), dtype=torch.long, device=first.device)
        confidence = torch.zeros(len(first), device=first.device)
        for domain in sorted(set(domains)):
            of_domain = [i for i, each in enumerate(domains) if each == domain]
            asked = replace(cond[of_domain], domain=[domain] * len(of_domain))
            part = self.rankers[domain](first[of_domain], second[of_domain], asked)
            label[of_domain], confidence[of_domain] = part.label, part.confidence
        return Verdict(label, confidence)

    def require(self, domains: set[str]) -> None:
        if unknown := sorted(domains - self.rankers.keys()):
            raise UserError(
                f"domain={unknown[0]!r} has no ranker; there are {', '.join(sorted(self.rankers))}: add "
                f"ranker.rankers.{unknown[0]}, "
                "or correct the data's domain or ranker.domains"
            )
