"""What a study leaves in outputs/studies/<name>, table.md to figure.svg; and its tables in docs."""

from pathlib import Path

from apo.errors import UserError
from apo.io.files import write_text
from apo.studies import figures, trials
from apo.studies.definition import Study
from apo.studies.docs import DOCS, fill
from apo.studies.measurements import Measured, Results
from apo.studies.prose import paragraph
from apo.studies.search import Search
from apo.studies.tables import as_csv, tables
from apo.studies.work import STUDIES


class Tables:
    """Of a study's arms, as far as they are evaluated; UserError if nothing is."""

    def __init__(self, study: Study, results: Results):
        self.study, self.results, self.found = study, results, tables(study, results)
        if not any(table.rows for table in self.found.values()):
            raise UserError(nothing(study, "arm"))

    def write(self) -> str:
        """All files; returns table.md."""
        sections, missing = [table.section() for table in self.found.values()], self.results.missing()
        waiting = f"Not evaluated yet: {', '.join(missing)}." if missing else ""
        text = "\n\n".join(
            part for part in (f"# {self.study.title}", *sections, paragraph(self.results), waiting) if part
        )
        folder = put(self.study, text, [line for table in self.found.values() for line in table.numbers()])
        write_text(folder / "runs.csv", as_csv(runs(self.study, self.results)))
        if self.study.figure and (rows := self.found[self.study.figure["table"]].rows):
            figures.save(figures.drawing(self.study.figure)(rows), folder)
        return f"{text}\n\ntable and figure: {folder}"

    def fill_docs(self, docs: Path = DOCS) -> list[Path]:
        """Puts the tables where docs/*.md has `<!-- table <study>.<table> -->`; UserError while runs of the study are
        missing."""
        if missing := self.results.missing():
            raise UserError(f"docs stay as they are, for not evaluated yet: {', '.join(missing)}")
        return fill(docs, {f"{self.study.name}.{name}": table.markdown() for name, table in self.found.items()})


class Trials:
    """Of a search, as far as it came; UserError if nothing is evaluated."""

    def __init__(self, study: Study, search: Search):
        self.study, self.search = study, search
        if not any(search.trials.values()):
            raise UserError(nothing(study, "trial"))

    def write(self) -> str:
        """All files; returns table.md."""
        text = f"# {self.study.title}\n\n{trials.markdown(self.search)}"
        folder = put(self.study, text, trials.numbers(self.search))
        figures.save(trials.curves(self.search), folder)
        return f"{text}\n\ntable and curves: {folder}"

    def fill_docs(self, docs: Path = DOCS) -> list[Path]:
        """As of tables, where docs have `<!-- table <study>.trials -->`."""
        if missing := [arm for arm in self.search.trials if arm not in self.search.chosen]:
            raise UserError(
                f"docs stay as they are, for the search of these arms is not at its end: {', '.join(missing)}"
            )
        return fill(docs, {f"{self.study.name}.trials": trials.markdown(self.search)})


def nothing(study: Study, what: str) -> str:
    return f"no {what} of {study.name} is evaluated yet: `python -m apo.study {study.name}` trains and evaluates them"


def put(study: Study, text: str, lines: list[dict]) -> Path:
    """table.md and table.csv; returns their folder."""
    folder = STUDIES / study.name
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", text + "\n")
    write_text(folder / "table.csv", as_csv(lines))
    return folder


def runs(study: Study, results: Results) -> list[dict]:
    """A line of runs.csv for each run and evaluation: the means of what was measured, and what the training took."""
    lines = []
    for arm in study.arms:
        for evaluation in study.evaluations:
            if (found := results.of(arm, evaluation)) is not None:
                lines += [of_run(found, evaluation, index) for index in range(len(found.folders))]
    return lines


def of_run(found: Measured, evaluation: str, index: int) -> dict:
    seed, folder = list(found.folders.items())[index]
    numbers = found.videos.drop(columns=["seed", "place"]).select_dtypes("number").columns
    means = {of: float(found.matrix(of)[index].mean()) for of in numbers}
    line = {"arm": found.arm.name, "seed": seed, "evaluation": evaluation, "folder": str(folder), **means}
    if found.trainings:
        cost = found.trainings[index]
        line |= {"steps": cost.steps, "seconds": cost.seconds, "forwards": cost.forwards, "batch_size": cost.batch_size}
    return line
