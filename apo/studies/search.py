"""A study that searches: the best settings of its arms, by one knob after another or by successive halving.

`knobs` of its YAML: setting -> `values`, the usual one first (a list, or names of overrides:
`{cosine: "decay_steps=\\${max_steps}"}`); or `from`, `times` and `least`: so many values, each so many times the one
before, and more, `most` at the most, while the last one is the best: up to where it breaks. `own`: arm -> knobs of its
own in their places, null for none.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

from apo.errors import UserError
from apo.studies.definition import Study, StudyArm, filled, require_known
from apo.studies.jobs import Runner
from apo.studies.measurements import Measured, Results
from apo.studies.work import Work, composed, split


@dataclass(frozen=True)
class Knob:
    """A setting and its values, the usual one first: name -> overrides that set it."""

    key: str
    title: str
    values: dict[str, str]
    least: int  # of the values, are tried in any case

    @property
    def first(self) -> list[str]:
        return list(self.values)[: self.least]

    @property
    def more(self) -> list[str]:
        return list(self.values)[self.least :]


def knob(key: str, given: dict) -> Knob:
    """UserError for one that has no values."""
    try:
        if "from" in given:
            numbers = [given["from"] * given["times"] ** i for i in range(given["most"])]
            values, least = {f"{number:g}": f"{key}={number:g}" for number in numbers}, given["least"]
        else:
            named = given["values"]
            named = named if isinstance(named, dict) else {number(value): f"{key}={value}" for value in named}
            values, least = {str(name): overrides for name, overrides in named.items()}, len(named)
    except (KeyError, TypeError) as error:
        raise UserError(f"search.knobs.{key}: {error}: give `values`, or `from`, `times`, `least` and `most`") from None
    return Knob(key, given.get("title", key), values, least)


def number(value) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class Trial:
    """One setting of an arm. settings: (knob, name of its value). share: of the arm's steps. seed: None for the usual
    one."""

    arm: str
    settings: tuple[tuple[str, str], ...]
    share: float = 1.0
    seed: int | None = None

    @property
    def name(self) -> str:
        """Of its run folder: the arm and the settings, each without what stands before its last dot."""
        words = [self.arm, *(f"{key.rpartition('.')[2]}_{value}" for key, value in self.settings)]
        words += [] if self.share == 1 else [f"share_{self.share:g}"]
        return "-".join([*words, *([] if self.seed is None else [f"seed_{self.seed}"])])

    def with_value(self, key: str, value: str) -> "Trial":
        return replace(self, settings=tuple((each, value if each == key else now) for each, now in self.settings))


Rounds = Generator[list[Trial], None, Trial]  # yields what is to be tried, returns what is best


class Search:
    """The search of a study: which trials its arms ask for, and what was found."""

    def __init__(self, study: Study, work: Work):
        self.study, self.work, self.given = study, work, study.search
        self.trials: dict[str, list[Trial]] = {arm.name: [] for arm in self.arms()}
        self.chosen: dict[str, Trial] = {}
        self.known: dict[Trial, Measured] = {}
        self.baseline: Measured | None = None

    def arms(self) -> list[StudyArm]:
        return [arm for arm in self.study.arms.values() if arm.train is not None]

    def knobs(self, arm: str) -> list[Knob]:
        own = self.given.get("own", {}).get(arm, {})
        given = self.given["knobs"] | own
        return [knob(key, each) for key, each in given.items() if each is not None]

    def run(self, arms: Sequence[StudyArm], runner: Runner) -> None:
        """Round by round, all arms side by side; an arm of which a trial fails is left out from there on."""
        methods = {"coordinate": self.coordinate, "halving": self.halving}
        require_known("method", "search.method", [self.given["method"]], methods)
        searches = {arm.name: self.with_finalists(arm.name, methods[self.given["method"]](arm.name)) for arm in arms}
        wanted = {name: next(rounds) for name, rounds in searches.items()}
        while wanted:
            jobs = self.work.jobs(
                [self.arm_of(trial) for trials in wanted.values() for trial in trials], self.study.seeds
            )
            runner.run(jobs)
            failed = {job.name.partition(":")[0] for job in (*runner.failed, *runner.missing)}
            wanted = dict(self.next_round(searches, wanted, failed))

    def next_round(self, searches: dict[str, Rounds], tried: dict[str, list[Trial]], failed: set[str]) -> Iterator:
        for name, trials in tried.items():
            if {trial.name for trial in trials} & failed:
                continue
            self.learn(trials)
            try:
                yield name, next(searches[name])
            except StopIteration as end:
                self.chosen[name] = end.value

    def learn(self, trials: Sequence[Trial]) -> None:
        """Reads what trials came to."""
        for trial in trials:
            if trial not in self.trials[trial.arm]:
                self.trials[trial.arm].append(trial)
        everything = [trial for found in self.trials.values() for trial in found]
        study = replace(self.study, arms=self.study.arms | {trial.name: self.arm_of(trial) for trial in everything})
        results = Results(study, self.study.seeds)
        self.known = {trial: results.of(trial.name) for trial in everything}
        self.results, self.baseline = results, results.of(self.against)

    @property
    def against(self) -> str:
        return next(arm.against for arm in self.arms())

    def first(self, arm: str) -> Trial:
        return Trial(arm, tuple((each.key, each.first[0]) for each in self.knobs(arm)))

    def coordinate(self, arm: str) -> Rounds:
        """One knob after another, the others at the best found so far."""
        best = self.first(arm)
        for each in self.knobs(arm):
            tried = [best.with_value(each.key, value) for value in each.first]
            yield tried
            for value in each.more:
                if self.best(tried) is not tried[-1]:
                    break
                tried.append(best.with_value(each.key, value))
                yield tried[-1:]
            best = self.best(tried)
        return best

    def halving(self, arm: str) -> Rounds:
        """All settings with few steps, the better part of them with more, and so on (Jamieson and Talwalkar 2016,
        "Non-stochastic best arm identification and hyperparameter optimization")."""
        factor, share = self.given["factor"], self.given["first_share"]
        names = [each.key for each in self.knobs(arm)]
        kept = [
            Trial(arm, tuple(zip(names, values)), share)
            for values in product(*(each.first for each in self.knobs(arm)))
        ]
        while True:
            yield kept
            if share >= 1:
                return self.best(kept)
            share = min(1.0, share * factor)
            kept = [replace(trial, share=share) for trial in sorted(kept, key=self.rank)[: ceil(len(kept) / factor)]]

    def with_finalists(self, arm: str, rounds: Rounds) -> Rounds:
        """After a search, the best `count` settings with `seeds` more each; the best on average is chosen."""
        best = yield from rounds
        if (finalists := self.given.get("finalists")) is None:
            return best
        whole = [trial for trial in self.trials[arm] if trial.share == 1]
        chosen = sorted(whole, key=self.rank)[: finalists["count"]]
        yield [replace(trial, seed=seed) for trial in chosen for seed in finalists["seeds"]]
        return min(
            chosen,
            key=lambda trial: self.mean_rank([trial, *(replace(trial, seed=seed) for seed in finalists["seeds"])]),
        )

    def best(self, trials: Sequence[Trial]) -> Trial:
        """The first of the best."""
        return min(trials, key=self.rank)

    def rank(self, trial: Trial) -> tuple:
        return self.mean_rank([trial])

    def mean_rank(self, trials: Sequence[Trial]) -> tuple:
        """Least first: what does not keep enough of the baseline's `keep`; then `least`, then `then_most`, means over
        seeds."""
        given = self.given["best"]
        means = {
            of: sum(self.known[trial].matrix(of).mean() for trial in trials) / len(trials) for of in self.measures()
        }
        return (not self.keeps(means), means[given["least"]], -means[given["then_most"]])

    def measures(self) -> list[str]:
        given = self.given["best"]
        return [given["least"], given["then_most"], *given.get("keep", {})]

    def keeps(self, means: dict[str, float]) -> bool:
        keep = self.given["best"].get("keep", {})
        return all(means[of] >= share * self.baseline.matrix(of).mean() for of, share in keep.items())

    def arm_of(self, trial: Trial) -> StudyArm:
        """A trial as an arm of one run, beside the baseline."""
        arm = self.study.arms[trial.arm]
        chosen = dict(trial.settings)
        words = [each.values[chosen[each.key]] for each in self.knobs(trial.arm)]
        words = [filled(arm.train, arm.name), *words, *([] if trial.seed is None else [f"seed={trial.seed}"])]
        steps = self.steps(arm, " ".join(words), trial.share)
        folder = f"{filled(arm.folder, arm.name)}/{trial.name}"
        return replace(
            arm, name=trial.name, title=trial.arm, folder=folder, train=" ".join([*words, f"max_steps={steps}"])
        )

    def steps(self, arm: StudyArm, overrides: str, share: float) -> int:
        """So many that as many pairs are seen as in the arm's own steps, whatever the batch."""
        own = composed("train", tuple(split(arm.train, arm, None)))
        here = composed("train", tuple(split(overrides, arm, None)))
        return max(1, round(share * own.max_steps * own.batch_size / here.batch_size))
