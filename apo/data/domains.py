"""Which domain a condition belongs to, and so which prompt or ranker judges it (Appendix C)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apo.errors import UserError
from apo.interfaces import Condition, DataRow

PROMPTS = Path(__file__).parents[1] / "rankers" / "prompts"


@dataclass(frozen=True)
class DomainRule:
    """The domain that the data gives, or else that of the first rule whose pattern the prompt contains, or the default.

    rules: regular expression -> domain. prompts: folder of the domains' ranking prompts; None for apo/rankers/prompts.
    """

    rules: dict[str, str]
    default: str
    prompts: str | None

    def __post_init__(self):
        for pattern in self.rules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"domains.rules: {pattern!r} is no regular expression ({error}): correct it") from None

    def __call__(self, cond: Condition) -> list[str]:
        """The domain of each of B conditions."""
        given = cond.domain or [""] * len(cond.prompt)
        return [self.of(prompt, domain) for prompt, domain in zip(cond.prompt, given)]

    def check(self, rows: Sequence[DataRow] = ()) -> None:
        """UserError for a domain of the rules, or of the data, that has no ranking prompt."""
        for domain in self.known(rows):
            self.text(domain)

    def known(self, rows: Sequence[DataRow]) -> list[str]:
        """The domains that the rule and the data name."""
        return sorted({self.default, *self.rules.values(), *(self.of(row.prompt, row.domain) for row in rows)})

    def text(self, domain: str) -> str:
        """Its ranking prompt; UserError if there is none."""
        return prompt_text(domain, self.prompts)

    def of(self, prompt: str, domain: str | None) -> str:
        return domain or self.of_prompt(prompt)

    def of_prompt(self, prompt: str) -> str:
        return next((domain for pattern, domain in self.rules.items() if re.search(pattern, prompt)), self.default)


def prompt_text(domain: str, folder: str | None = None) -> str:
    """The hierarchical evaluation prompt of a domain: <domain>.txt of `folder`, or of apo/rankers/prompts if that is
    None.

    Domains come with data, from anyone: one is looked up among the names of the folder's own files and is never a path.
    UserError names an unknown domain and the known ones.
    """
    place = PROMPTS if folder is None else Path(folder)
    if not place.is_dir():
        raise UserError(
            f"domains.prompts={folder}: there is no such folder; give one with a DOMAIN.txt for each domain"
        )
    there = {
        file.stem: file
        for file in sorted(place.glob("*.txt"))
        if file.is_file() and file.resolve().parent == place.resolve()
    }
    if domain not in there:
        known = ", ".join(there) or "none"
        raise UserError(
            f"domain={domain!r}: there is no ranking prompt for it in {folder or 'apo/rankers/prompts'}, which has "
            f"{known}; use one of "
            "these, or give a folder of your own with a DOMAIN.txt for each as domains.prompts"
        )
    return there[domain].read_text(encoding="utf-8").strip()
