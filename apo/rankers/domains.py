"""Which domain a condition belongs to, and so which prompt or ranker judges it (Appendix C)."""

import re
from dataclasses import dataclass

from apo.interfaces import Condition
from apo.rankers.answer import prompt_text


@dataclass(frozen=True)
class DomainRule:
    """The domain that the data gives, or else that of the first rule whose pattern the prompt contains, or the default.

    rules: regular expression -> domain.
    """

    rules: dict[str, str]
    default: str

    def __call__(self, cond: Condition) -> list[str]:
        """The domain of each of B conditions."""
        given = cond.domain or [""] * len(cond.prompt)
        return [domain or self.of_prompt(prompt) for domain, prompt in zip(given, cond.prompt)]

    def check(self) -> None:
        """ValueError for a domain that has no ranking prompt."""
        for domain in (*self.rules.values(), self.default):
            prompt_text(domain)

    def of_prompt(self, prompt: str) -> str:
        return next((domain for pattern, domain in self.rules.items() if re.search(pattern, prompt)), self.default)
