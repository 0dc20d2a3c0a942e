"""The columns of tables: functions of a row, which `cell` of a study's YAML names, and whose other keys they are given.

`of` is a measurement: what rows.json has of a video, or what the study derives from it under `measures`. `scale`: 100
for percent. A column of your own is a function of the same kind; give its dotted path as `cell`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from apo.intervals import Interval, brackets, wilson
from apo.studies.measurements import Measured, Paired, Results, forwards
from apo.studies.scale import at_scale
from apo.studies.statistics import Spread, holm, mcnemar, paired_bootstrap, spread


@dataclass(frozen=True)
class Cell:
    """text: in table.md. values: the numbers behind it, in table.csv."""

    text: str = ""
    values: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Row:
    """An arm in a table. beside: what it is compared with, None for nothing. results: the study's, for other
    evaluations. scale: train.py's overrides of such a step of Wan2.2. table: all its rows."""

    title: str
    own: Measured
    evaluation: str
    beside: Paired | None
    results: Results
    scale: Sequence[str] = ()
    table: list["Row"] = field(default_factory=list)

    def of(self, whose: str, evaluation: str | None) -> Measured | None:
        """whose: own, or against: the arm that this one is compared with. evaluation: None for the row's, or that
        arm's."""
        if whose == "own":
            return self.own if evaluation is None else self.results.of(self.own.arm.name, evaluation)
        if self.beside is None:
            return None
        return self.beside.theirs if evaluation is None else self.results.of(self.beside.theirs.arm.name, evaluation)


EMPTY = Cell()


def title(row: Row) -> Cell:
    return Cell(row.title)


def evaluation(row: Row) -> Cell:
    return Cell(row.results.study.evaluations[row.evaluation].title)


def mean(
    row: Row, of: str, scale: float = 1, form: str = "{:.3f}", whose: str = "own", evaluation: str | None = None
) -> Cell:
    """'mean ± standard deviation' over seeds."""
    found = row.of(whose, evaluation)
    return EMPTY if found is None else spread_cell([scale * value for value in found.each(of)], form)


def mean_alone(row: Row, of: str, scale: float = 1, form: str = "{:.3f}") -> Cell:
    return Cell(form.format(scale * fmean(row.own.each(of))), {"": scale * fmean(row.own.each(of))})


def pooled(row: Row, of: str, evaluation: str | None = None) -> Cell:
    """'mean ± sd [Wilson interval of the videos of all seeds]', in percent. Seeds share their conditions and noise, so
    that the interval is narrower than it should be."""
    if (found := row.of("own", evaluation)) is None:
        return EMPTY
    over_seeds = spread_cell([100 * value for value in found.each(of)], "{:.1f}")
    interval = wilson(int(found.videos[of].sum()), len(found.videos))
    return Cell(f"{over_seeds.text} {brackets(interval)}", over_seeds.values | ends(interval, 100))


def paper(row: Row, of: str) -> Cell:
    """The paper's number, with its standard deviation if it has one."""
    given = row.own.arm.paper.get(of)
    if given is None:
        return EMPTY
    numbers = [float(number) for number in (given if isinstance(given, list) else [given])]
    return Cell(" ± ".join(f"{number:.1f}" for number in numbers), dict(zip(("", "sd"), numbers)))


def beside_paper(row: Row, of: str, scale: float = 1, form: str = "{:.2f}", paper: str | None = None) -> Cell:
    """Ours, and in parentheses the paper's, under the name of ours unless `paper` names it."""
    ours, theirs = mean(row, of, scale, form), row.own.arm.paper.get(paper or of)
    return ours if theirs is None else Cell(f"{ours.text} ({form.format(theirs)})", ours.values | {"paper": theirs})


def won(row: Row, of: str, ties: bool = True) -> Cell:
    """'win/tie/loss' against what the row is compared with, all seeds. of: 0 or 1, of which 1 is better."""
    if row.beside is None:
        return EMPTY
    found = row.beside.outcomes(of)
    return Cell(str(found) if ties else f"{found.win}/{found.loss}", vars(found))


def difference(row: Row, of: str, scale: float = 100) -> Cell:
    """In points, with the bootstrap interval over seeds and conditions."""
    if row.beside is None:
        return EMPTY
    found = paired_bootstrap(row.beside.difference(of))
    return Cell(f"{scale * found.value:+.1f} {brackets(found)}", {"": scale * found.value} | ends(found, scale))


def lost(row: Row, of: str) -> Cell:
    """The difference in percent points as 'mean ± sd [bootstrap interval]'."""
    if row.beside is None:
        return EMPTY
    values, found = row.beside.difference(of), paired_bootstrap(row.beside.difference(of))
    over_seeds = spread_cell([100 * float(value) for value in values.mean(1)], "{:.1f}")
    return Cell(f"{over_seeds.text} {brackets(found)}", over_seeds.values | ends(found, 100))


def p_value(row: Row, of: str) -> Cell:
    """Of McNemar's exact test, all seeds pooled; not corrected for other rows."""
    if row.beside is None:
        return EMPTY
    p = mcnemar(row.beside.outcomes(of))
    return Cell(f"{p:.2g}", {"p": p})


def holm_p(row: Row, of: str) -> Cell:
    """The same, corrected for all rows of the table."""
    if row.beside is None:
        return EMPTY
    compared = [each for each in row.table if each.beside is not None]
    p = holm([mcnemar(each.beside.outcomes(of)) for each in compared])[compared.index(row)]
    return Cell(f"{p:.2g}", {"p": p})


def wall_time(row: Row) -> Cell:
    return number(row, "{:.0f}", lambda: fmean(each.seconds for each in row.own.trainings))


def forward_equivalents(row: Row, over_seeds: bool = False) -> Cell:
    """Of a run. over_seeds: with the standard deviation, where it is not 0."""
    counts = [round(each.forwards) for each in row.own.trainings]
    if not over_seeds:
        return number(row, "{:.0f}", lambda: fmean(counts))
    if not counts:
        return EMPTY
    cell = spread_cell(counts, "{:.0f}")
    return Cell(cell.text.removesuffix(" ± 0"), cell.values)


def batch_size(row: Row) -> Cell:
    return number(row, "{}", lambda: row.own.trainings[0].batch_size)


def steps(row: Row) -> Cell:
    return number(row, "{}", lambda: row.own.trainings[0].steps)


def seconds_a_step(row: Row, first_seed: bool = False) -> Cell:
    trainings = row.own.trainings[:1] if first_seed else row.own.trainings
    return number(
        row, "{:.2f}", lambda: sum(each.seconds for each in trainings) / sum(each.steps for each in trainings)
    )


def share_of_time(row: Row, kind: str) -> Cell:
    """Of the optimizer steps' time, in percent, all seeds."""
    seconds = [each.time.get(kind, 0.0) for each in row.own.trainings]
    return number(row, "{:.0f}", lambda: 100 * sum(seconds) / sum(each.seconds for each in row.own.trainings))


def forwards_of(row: Row) -> Cell:
    """'of a step, of the run'; the first seed's."""
    if not row.own.trainings:
        return EMPTY
    first = row.own.trainings[0]
    return cost(first.forwards_a_step, first.steps)


def forwards_at_scale(row: Row) -> Cell:
    """The same of Wan2.2 at the row's `scale`, with as many blocks computed as here."""
    if not row.own.trainings or not row.scale:
        return EMPTY
    first = row.own.trainings[0]
    return cost(forwards(at_scale(row.scale), first.blocks), first.steps)


def seeds(row: Row) -> Cell:
    count = len(row.own.seeds)
    return Cell(str(count or ""), {"": count})


def runs(row: Row) -> Cell:
    """As `seeds`, where an arm without seeds counts as one."""
    return Cell(str(len(row.own.folders)), {"": len(row.own.folders)})


def videos(row: Row) -> Cell:
    return Cell(str(len(row.own.videos)), {"": len(row.own.videos)})


def number(row: Row, form: str, value) -> Cell:
    """One number of the trainings; empty for an arm without them."""
    if not row.own.trainings:
        return EMPTY
    return Cell(form.format(value()), {"": value()})


def cost(a_step: float, steps: int) -> Cell:
    return Cell(f"{a_step:.4g}, {a_step * steps:,.0f}", {"a step": a_step, "of the run": a_step * steps})


def spread_cell(values: Sequence[float], form: str) -> Cell:
    found: Spread = spread(values)
    if found.sd is None:
        return Cell(form.format(found.mean), {"": found.mean})
    return Cell(f"{form.format(found.mean)} ± {form.format(found.sd)}", {"": found.mean, "sd": found.sd})


def ends(interval: Interval, scale: float) -> dict[str, float]:
    return {"low": scale * interval.low, "high": scale * interval.high}
