"""A study's tables as Markdown and CSV, from the rows and columns that its YAML names."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hydra.utils import get_method

from apo.errors import UserError
from apo.studies.columns import Cell, Row
from apo.studies.definition import Study, require_known
from apo.studies.measurements import Results


@dataclass
class Table:
    """title: above it, '' for none. heads: of the columns. cells: of each row. notes: below it."""

    name: str
    title: str
    heads: list[str]
    rows: list[Row]
    cells: list[list[Cell]]
    notes: str

    def markdown(self) -> str:
        """The table alone."""
        lines = [self.heads, *([cell.text for cell in row] for row in self.cells)]
        head, *rows = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([head, "|---" * len(self.heads) + "|", *rows])

    def section(self) -> str:
        title = f"## {self.title}" if self.title else ""
        return "\n\n".join(part for part in (title, self.markdown(), self.notes.strip()) if part)

    def numbers(self) -> list[dict]:
        """A line of table.csv for each row: what a column has of several numbers stands in columns of their own."""
        lines = []
        for row, cells in zip(self.rows, self.cells):
            line = {"table": self.name, "arm": row.own.arm.name, "title": row.title, "evaluation": row.evaluation}
            for head, cell in zip(self.heads, cells):
                line |= {f"{head}: {key}" if key else head: value for key, value in cell.values.items()}
            lines.append(line)
        return lines


def tables(study: Study, results: Results) -> dict[str, Table]:
    return {name: table(study, name, results) for name in study.tables}


def table(study: Study, name: str, results: Results) -> Table:
    """Of the arms that are evaluated; UserError for a row or column that the study does not have."""
    given, place = study.tables[name], f"tables.{name}"
    columns = [column(each, place) for each in given["columns"]]
    rows = [found for each in wanted(study, given) if (found := row(each, given, results, place)) is not None]
    for each in rows:
        each.table = rows
    heads = [each.get("head", "") for each in given["columns"]]
    cells = [[column(each) for column in columns] for each in rows]
    return Table(name, given.get("title", ""), heads, rows, cells, given.get("notes", ""))


def column(given: dict, place: str) -> Callable[[Row], Cell]:
    """The function that `cell` names, of `apo.studies.columns` if it has no dot, with the other keys."""
    options = {key: value for key, value in given.items() if key not in ("head", "cell")}
    name = str(given.get("cell"))
    try:
        return partial(get_method(name if "." in name else f"apo.studies.columns.{name}"), **options)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{place}: cell: {name} is no function ({reason}): give one of apo/studies/columns.py"
        ) from None


def wanted(study: Study, given: dict) -> list[dict]:
    """The rows that a table names, all arms if it names none; under each evaluation of `each`, if it has that."""
    rows = [{"arm": each} if isinstance(each, str) else each for each in given.get("rows", list(study.arms))]
    return [each | {"evaluation": name} for each in rows for name in given["each"]] if "each" in given else rows


def row(given: dict, of_table: dict, results: Results, place: str) -> Row | None:
    """None where nothing is evaluated."""
    require_known("arm", place, [given["arm"]], results.study.arms)
    arm = results.study.arms[given["arm"]]
    evaluation = given.get("evaluation", arm.shown)
    require_known("evaluation", place, [evaluation], results.study.evaluations)
    if (own := results.of(arm.name, evaluation)) is None:
        return None
    against = given.get("against", of_table.get("against", arm.against))
    beside = None if against is None else results.pair(own, results.of(against, given.get("against_under")))
    return Row(given.get("title", arm.title), own, evaluation, beside, results, given.get("scale", ()))


def as_csv(lines: Sequence[dict]) -> str:
    """Lines of unequal keys, in the order in which the keys appear."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
