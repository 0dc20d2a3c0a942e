"""What a search found: a table of all trials, what was chosen in bold, and curves over each knob."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from apo.intervals import Interval, shown, wilson
from apo.studies.measurements import Measured
from apo.studies.search import Search, Trial
from apo.studies.statistics import Outcomes, outcomes


def markdown(search: Search) -> str:
    knobs = titles(search)
    extra = [head for head, there in (("steps", shares(search)), ("seed", seeds(search))) if there]
    heads = ["arm", *knobs.values(), *extra, "distorted", "dynamic degree", "instruction following", "win/tie/loss"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for trial in tried(search):
        cells = [trial.arm, *(dict(trial.settings).get(key, "") for key in knobs)]
        cells += [f"{trial.share:.0%}"] if shares(search) else []
        cells += [str(trial.seed if trial.seed is not None else search.study.seeds[0])] if seeds(search) else []
        cells += figures_of(search, trial)
        lines.append(
            "| " + " | ".join(f"**{cell}**" if search.chosen.get(trial.arm) == trial else cell for cell in cells) + " |"
        )
    return "\n".join(lines)


def figures_of(search: Search, trial: Trial) -> list[str]:
    found, rate = search.known[trial], distorted(search.known[trial])
    return [
        shown(rate, 1, 100, " %"),
        f"{found.matrix('speed').mean():.3f}",
        f"{100 * found.matrix('followed').mean():.1f} %",
        str(against(search, found)),
    ]


def numbers(search: Search) -> list[dict]:
    """A line of table.csv for each trial."""
    lines = []
    for trial in tried(search):
        found, rate = search.known[trial], distorted(search.known[trial])
        line = {"arm": trial.arm} | dict(trial.settings)
        line |= {"share of steps": trial.share, "seed": search.study.seeds[0] if trial.seed is None else trial.seed}
        line |= {"distorted": rate.value, "low": rate.low, "high": rate.high}
        line |= {of: float(found.matrix(of).mean()) for of in ("speed", "followed")} | vars(against(search, found))
        line |= {"keeps enough": not search.rank(trial)[0], "chosen": search.chosen.get(trial.arm) == trial}
        lines.append(line | {"folder": str(search.arm_of(trial).run_folder(None))})
    return lines


def curves(search: Search) -> Figure:
    """For each knob the trials of every arm over its values, in the order tried; the best of each value joined by a
    line."""
    knobs = titles(search)
    figure, grid = plt.subplots(
        1, len(knobs), figsize=(4 * len(knobs), 3.6), layout="constrained", sharey=True, squeeze=False
    )
    for ax, (key, title) in zip(grid.flat, knobs.items()):
        knobs_of_all = [each for arm in search.trials for each in search.knobs(arm) if each.key == key]
        names = list(dict.fromkeys(value for each in knobs_of_all for value in each.values))
        for index, arm in enumerate(search.trials):
            trials = [trial for trial in search.trials[arm] if key in dict(trial.settings) and trial.share == 1]
            rates = {trial: distorted(search.known[trial]) for trial in trials}
            at = {trial: names.index(dict(trial.settings)[key]) + 0.04 * index for trial in trials}
            ax.plot(list(at.values()), [100 * rate.value for rate in rates.values()], ".", color=f"C{index}", alpha=0.5)
            best = {
                x: min(100 * rates[trial].value for trial in trials if at[trial] == x) for x in sorted(set(at.values()))
            }
            ax.plot(list(best), list(best.values()), color=f"C{index}", label=arm)
        ax.set_xticks(range(len(names)), names)
        ax.set(xlabel=title)
    grid.flat[0].set(ylabel="distorted videos, %")
    grid.flat[0].legend(fontsize=7)
    return figure


def titles(search: Search) -> dict[str, str]:
    """Knob -> its title, of all arms."""
    return {each.key: each.title for arm in search.trials for each in search.knobs(arm)}


def tried(search: Search) -> list[Trial]:
    return [trial for trials in search.trials.values() for trial in trials]


def shares(search: Search) -> bool:
    return any(trial.share != 1 for trial in tried(search))


def seeds(search: Search) -> bool:
    return any(trial.seed is not None for trial in tried(search))


def distorted(found: Measured) -> Interval:
    return wilson(int(found.videos["distorted"].sum()), len(found.videos))


def against(search: Search, found: Measured) -> Outcomes:
    return outcomes(found.matrix("clean"), search.baseline.matrix("clean"))
