"""From a table's columns to a row's fields: names, types, and what is wrong with either, said once a column where it is
the column.
"""

import difflib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import MISSING, Field
from pathlib import Path

from apo.data.cells import from_text, shown, typed, wish
from apo.errors import UserError


class Columns:
    """The fields of a kind of row, and where in a table they stand.

    fields: by their names. given: field -> column, of those with other names; columns that no field takes are then
    ignored. None: a column has its field's name, and any other is a mistake. is_text: all cells are text (CSV).
    """

    def __init__(self, fields: Mapping[str, Field], given: Mapping[str, str] | None, is_text: bool):
        if not isinstance(given, Mapping | None):
            raise UserError(f"columns={given}: give {{field: column}} with fields of {', '.join(fields)}")
        self.fields, self.is_text, self.strict = fields, is_text, given is None
        self.of = {name: name for name in fields} | dict(given or {})
        for name, column in (given or {}).items():
            if name not in fields or not isinstance(column, str):
                raise UserError(
                    f"columns={{{name}: {column}}}: give the name of a column to one of {', '.join(fields)}"
                )
        self.rows, self.first = 0, 1
        self.there: dict[str, list[int]] = defaultdict(list)  # column -> lines of its rows
        self.lacking: dict[str, list[int]] = defaultdict(
            list
        )  # field that a row must have -> lines of the rows without it

    def cells(self, line: int, record: Mapping) -> dict:
        """Field -> value of a row."""
        self.first = line if self.rows == 0 else self.first
        self.rows += 1
        for column in record:
            self.there[column].append(line)
        found = {name: record[column] for name, column in self.of.items() if record.get(column) is not None}
        return (
            {name: from_text(self.fields[name].type, value) for name, value in found.items()} if self.is_text else found
        )

    def complaints(self, line: int, cells: Mapping) -> list[str]:
        """What is wrong with a row's cells, but for those that are missing."""
        for name in self.absent(cells):
            self.lacking[name].append(line)
        wishes = {name: wish(self.fields[name].type, value) for name, value in cells.items()}
        return [f"{self.label(name)} is {shown(cells[name])}: {wished}" for name, wished in wishes.items() if wished]

    def absent(self, cells: Mapping) -> list[str]:
        """The fields that a row must have and has not."""
        return [name for name, field in self.fields.items() if name not in cells and field.default is MISSING]

    def typed(self, cells: Mapping, folder: Path) -> dict:
        return {name: typed(self.fields[name].type, value, folder) for name, value in cells.items()}

    def label(self, name: str) -> str:
        """A field in a message."""
        return name if self.of[name] == name else f"{name} (column {shown(self.of[name])})"

    def problems(self) -> list[tuple[int, str]]:
        """(line, message) of what is missing and unknown, once all rows were seen."""
        return [*self.unknown(), *self.unmapped(), *self.missing()]

    def unknown(self) -> list[tuple[int, str]]:
        strange = [column for column in self.there if column not in self.of.values()] if self.strict else []
        found = []
        for column in strange:
            close = difflib.get_close_matches(str(column), self.fields, n=1)
            hint = (
                f"did you mean {close[0]!r}?"
                if close
                else f"known are {', '.join(self.fields)}; columns={{}} ignores all others"
            )
            lines = self.there[column]
            found.append((lines[0], f"unknown column {shown(column)}, in {len(lines)} of {self.rows} rows: {hint}"))
        return found

    def unmapped(self) -> list[tuple[int, str]]:
        lost = [name for name, column in self.of.items() if name != column and column not in self.there and self.rows]
        there = ", ".join(map(shown, self.there))
        return [
            (self.first, f"no row has the column of columns.{name}={shown(self.of[name])}: there are {there}")
            for name in lost
        ]

    def missing(self) -> list[tuple[int, str]]:
        found = []
        for name, lines in self.lacking.items():
            if self.of[name] not in self.there and len(lines) == self.rows > 1:
                where = f"is missing in all {self.rows} rows: add it, or say with columns={{field: column}} where it is"
                found.append((lines[0], f"{self.label(name)} {where}"))
            else:
                found += [(line, f"{self.label(name)} is missing: add it or drop the row") for line in lines]
        return found
