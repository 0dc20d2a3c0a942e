"""A study's paragraph: which differences are shown, and how surely."""

from collections.abc import Sequence

from apo.intervals import brackets
from apo.studies.definition import require_known
from apo.studies.measurements import Paired, Results
from apo.studies.statistics import holm, mcnemar, paired_bootstrap


def paragraph(results: Results) -> str:
    """As `paragraph` of the study says; '' where nothing can be compared yet.

    of: a measurement of 0 or 1. less_is_better: of it. pairs: of arms, each under the evaluation that it shows. spared:
    who loses less, `ours` or `others`, each compared with what it came from, and what that is put down to.
    """
    given = results.study.paragraph or {}
    of, sign = given.get("of"), -1 if given.get("less_is_better") else 1
    sentences = compared(results, given.get("pairs", ()), of, sign)
    return "\n".join(filter(None, [*sentences, spared(results, of, **given["spared"]) if "spared" in given else ""]))


def compared(results: Results, names: Sequence[Sequence[str]], of: str, sign: int) -> list[str]:
    pairs = [pair for ours, theirs in names if (pair := pair_of(results, ours, theirs)) is not None]
    p = [mcnemar(pair.outcomes(of)) for pair in pairs]
    return [sentence(pair, of, sign, *both) for pair, *both in zip(pairs, p, holm(p))]


def pair_of(results: Results, ours: str, theirs: str) -> Paired | None:
    require_known("arm", "paragraph.pairs", [ours, theirs], results.study.arms)
    own = results.of(ours)
    return None if own is None else results.pair(own, results.of(theirs))


def sentence(pair: Paired, of: str, sign: int, p: float, corrected: float) -> str:
    """'- A against B: -2.7 points of distorted [-4.9, -0.6], 161 better and 9 worse of 1200 (p ..., Holm ...): B is
    better.'"""
    found, counts = paired_bootstrap(pair.difference(of)), pair.outcomes(of)
    better, worse = (counts.win, counts.loss)[::sign]
    names = pair.ours.arm.title, pair.theirs.arm.title
    who = names[0] if sign * found.value > 0 else names[1]
    verdict = "no difference is shown" if found.low <= 0 <= found.high else f"better: {who}"
    count = counts.win + counts.tie + counts.loss
    return (
        f"- {names[0]} against {names[1]}: {100 * found.value:+.1f} points of {of} {brackets(found)}, {better} better "
        f"and {worse} worse "
        f"of {count} (McNemar p {p:.2g}, Holm {corrected:.2g}): {verdict}."
    )


def spared(results: Results, of: str, ours: str, others: str, by: str) -> str:
    """How much less one arm loses than another, on equal conditions and seeds; '' unless both are there."""
    arms = results.study.arms
    pairs = [pair_of(results, name, arms[name].against) for name in (ours, others)]
    if None in pairs or not (seeds := [seed for seed in pairs[0].seeds if seed in pairs[1].seeds]):
        return ""
    lost = [pair.ours.matrix(of, seeds) - pair.theirs.matrix(of, seeds) for pair in pairs]
    less = paired_bootstrap(lost[1] - lost[0])
    holds = less.low <= 0 <= less.high
    verdict = "the interval holds 0: no difference is shown" if holds else "the interval excludes 0"
    return f"{by} {100 * less.value:.1f} points less are lost {brackets(less)}: {verdict}."
