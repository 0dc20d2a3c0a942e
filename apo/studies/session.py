"""One call of `python -m apo.study`: the jobs of a study, and what comes out."""

from collections.abc import Sequence

from apo.errors import UserError
from apo.studies.definition import Study, StudyArm
from apo.studies.jobs import Runner
from apo.studies.measurements import Results
from apo.studies.output import Tables, Trials
from apo.studies.search import Search
from apo.studies.work import Work

BOTH = ("model", "trainer", "logger")  # groups that train.py and evaluate.py share
EVALUATION = ("conditions", "evaluator")  # groups of evaluate.py alone


class Session:
    """overrides: of the command line: those of `model`, `trainer` and `logger` are for trainings and evaluations, those
    of `conditions` and `evaluator` for evaluations, the others for trainings. dry: runs nothing; see `Runner`. exact:
    see `Work`."""

    def __init__(self, study: Study, overrides: Sequence[str], parallel: int, dry: bool, exact: bool):
        alone = ["trainer.threads=1"] if parallel > 1 else []  # several processes share the cores
        for_training = [word for word in overrides if group(word) not in EVALUATION]
        for_evaluation = [word for word in overrides if group(word) in (*BOTH, *EVALUATION)]
        self.study, self.runner = study, Runner(parallel, dry)
        self.work = Work(study, alone + for_training, alone + for_evaluation, exact)

    def run(self, arms: Sequence[StudyArm]) -> Tables | None:
        """Trains and evaluates what is missing of some arms; then the tables of all. None if failures left nothing to
        show."""
        self.runner.run(self.work.jobs(arms, self.study.seeds))
        return self.shown(lambda: Tables(self.study, Results(self.study, self.study.seeds)))

    def searched(self, arms: Sequence[StudyArm]) -> Trials | None:
        search = Search(self.study, self.work)
        search.run([arm for arm in arms if arm.train is not None], self.runner)
        return self.shown(lambda: Trials(self.study, search))

    def shown(self, make):
        try:
            return make()
        except UserError:
            if not self.runner.failed and not self.runner.missing:
                raise
            return None

    def commands(self) -> list[str]:
        """What is missing, as far as it is known: a search decides on the rest once these are done."""
        return [job.shown() for job in self.runner.missing] or ["# nothing is missing"]

    def require_whole(self) -> None:
        """UserError if a command failed."""
        if failed := self.runner.failed:
            names = ", ".join(job.name for job in failed)
            raise UserError(f"{len(failed)} commands failed ({names}); the same command tries them again")


def group(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0]
