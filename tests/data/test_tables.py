"""Tables in every format give the same rows, and damaged ones a sentence."""

import csv
import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from apo.data.manifest import ManifestError, PairRow, load, read
from apo.data.rankings import RankingRow
from apo.errors import UserError
from tests.data.clips import Spec, write_jsonl


def write_csv(path, records: list[dict]):
    columns = sorted({name for record in records for name in record})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for record in records:
            cells = [record.get(name, "") for name in columns]
            writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    return path


def said(path, row_type=PairRow, columns=None) -> dict[int, str]:
    """line -> what is wrong there."""
    with pytest.raises(ManifestError) as raised:
        load(path, row_type, Spec(), columns)
    return {problem.line: problem.message for problem in raised.value.problems}


def test_a_csv_and_a_folder_read_as_jsonl_does(tmp_path, records, manifest):
    records[0] |= {
        "segment": [0.0, 0.7],
        "annotators": ["a", "b"],
        "domain": "human",
        "prompt": 'a "quoted", long\nprompt',
    }
    rows = load(write_jsonl(manifest, records), PairRow, Spec())
    of_csv = load(write_csv(tmp_path / "m.csv", records), PairRow, Spec())
    assert [vars(row) | {"line": 0} for row in of_csv] == [vars(row) | {"line": 0} for row in rows]
    assert [row.line for row in of_csv[:2]] == [2, 4]  # after the header, and after a cell of two lines
    for kind in ("csv", "jsonl", "parquet"):
        (folder := tmp_path / kind).mkdir()
        for row in records:
            for name in (row["chosen"], row["rejected"]):
                (folder / name).exists() or (folder / name).hardlink_to(tmp_path / name)
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "metadata.parquet")
        else:
            (write_csv if kind == "csv" else write_jsonl)(folder / f"metadata.{kind}", records)
        found = load(folder, PairRow, Spec())
        assert [(row.prompt, row.chosen.name, row.segment) for row in found] == [
            (r.prompt, r.chosen.name, r.segment) for r in rows
        ]
        assert found[0].chosen.parent == folder


def test_a_csvs_numbers_are_numbers(tmp_path, records):
    rows = [
        {"prompt": "p", "first": row["chosen"], "second": row["rejected"], "label": 1 + i % 4}
        for i, row in enumerate(records)
    ]
    assert [row.label for row in load(write_csv(tmp_path / "m.csv", rows), RankingRow, Spec())] == [
        1 + i % 4 for i in range(7)
    ]
    for i, label in enumerate(("1.0", "true", '"1"', "5", "[1]", "one")):
        rows[i]["label"] = label
    assert set(said(write_csv(tmp_path / "m.csv", rows), RankingRow)) == set(range(2, 8))


def test_damaged_tables_say_where(tmp_path):
    cases = {
        b"prompt,chosen\na,b,c\n": (2, "has 3 cells, the header has 2"),
        b'prompt,chosen,rejected\n"a,b,c\n': (2, "not CSV"),
        b"prompt,chosen,rejected\n\xff,b,c\n": (2, "prompt is .*: write UTF-8 text"),
        b"prompt;chosen;rejected\na;b;c\n": (2, "unknown column 'prompt;chosen;rejected'"),
        b"\n": (1, "the manifest has no rows"),
    }
    for content, (line, message) in cases.items():
        (tmp_path / "m.csv").write_bytes(content)
        with pytest.raises(ManifestError, match=f"line {line}: {message}"):
            load(tmp_path / "m.csv", PairRow, Spec())
    for content in (b"prompt,prompt\na,b\n", b"prompt,\na,b\n"):
        (tmp_path / "m.csv").write_bytes(content)
        with pytest.raises(UserError, match="columns need names, each its own"):
            read(tmp_path / "m.csv", PairRow)


def test_a_folder_needs_one_table_and_a_path_has_to_be_one(tmp_path):
    with pytest.raises(UserError, match="a folder with no metadata.jsonl"):
        read(tmp_path, PairRow)
    for kind in ("csv", "jsonl"):
        (tmp_path / f"metadata.{kind}").touch()
    with pytest.raises(UserError, match="metadata.jsonl and metadata.csv: give the manifest's own path"):
        read(tmp_path, PairRow)
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in ("pipe.jsonl", "a\0b.jsonl", f"{'x' * 300}.jsonl", "metadata.csv/a.jsonl"):
        with pytest.raises(UserError, match="data.path"):
            read(tmp_path / path, PairRow)


def test_columns_of_other_names_are_mapped_and_the_rest_ignored(tmp_path, records):
    theirs = [
        {"caption": r["prompt"], "chosen_file_name": r["chosen"], "rejected": r["rejected"], "score": 1}
        for r in records
    ]
    path, names = write_csv(tmp_path / "metadata.csv", theirs), {"prompt": "caption", "chosen": "chosen_file_name"}
    assert [row.prompt for row in load(path, PairRow, Spec(), names)] == [r["prompt"] for r in records]
    assert said(path, columns=names | {"image": "first"}) == {
        2: "no row has the column of columns.image='first': there are 'caption', 'chosen_file_name', "
        "'rejected', 'score'"
    }
    with pytest.raises(UserError, match="columns={promt: caption}: give the name of a column to one of prompt,"):
        read(path, PairRow, {"promt": "caption"})
    for columns in (5, "caption", ["prompt"]):
        with pytest.raises(UserError, match="columns=.*: give {field: column}"):
            read(path, PairRow, columns)
    theirs[3]["caption"] = " "
    assert said(write_csv(path, theirs), columns=names) == {
        5: "prompt (column 'caption') is ' ': write a text that is not empty"
    }


def test_a_column_that_is_unknown_or_missing_is_said_once(tmp_path, records):
    wrong = [{"prompt": r["prompt"], "choosen": r["chosen"], "rejected": r["rejected"], "notes": "x"} for r in records]
    with pytest.raises(ManifestError) as raised:
        load(write_jsonl(tmp_path / "m.jsonl", wrong), PairRow, Spec())
    assert [problem.message for problem in raised.value.problems] == [
        "unknown column 'choosen', in 7 of 7 rows: did you mean 'chosen'?",
        "unknown column 'notes', in 7 of 7 rows: known are prompt, domain, segment, chosen, rejected, image, "
        "annotators; "
        "columns={} ignores all others",
        "chosen is missing in all 7 rows: add it, or say with columns={field: column} where it is",
    ]
    assert len(load(write_jsonl(tmp_path / "m.jsonl", [r | {"notes": "x"} for r in records]), PairRow, Spec(), {})) == 7
