import json
import re
from dataclasses import dataclass
from typing import Literal

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from apo.data.cells import ImageFile, VideoFile
from apo.data.manifest import ManifestError, PairRow, Problem, Row, load, read
from apo.data.rankings import RankingRow
from apo.errors import UserError
from apo.io.video import write_video
from tests.data.clips import Spec, counted, write_jsonl


def test_good_rows_are_typed_and_relative_to_the_manifest(tmp_path, records):
    Image.new("RGB", (9, 9)).save(tmp_path / "first.png")
    records[0] |= {"image": "first.png", "domain": "human", "annotators": ["a", "b"], "segment": [0, 0.7]}
    rows = load(write_jsonl(tmp_path / "m.jsonl", [records[0], "\n", records[1]]), PairRow, Spec())
    assert [row.line for row in rows] == [1, 3]
    assert rows[0].segment == (0, 0.7) and rows[0].annotators == ["a", "b"] and rows[0].domain == "human"
    assert rows[0].files(ImageFile) == {"image": tmp_path / "first.png"} and rows[1].files(ImageFile) == {}
    assert rows[0].files(VideoFile) == {"chosen": tmp_path / "good0.mp4", "rejected": tmp_path / "bad0.mp4"}


def test_all_bad_rows_are_reported_at_once_with_their_lines(tmp_path, records):
    good = records[0]
    counted(tmp_path / "short.mp4", 3)
    whole = (tmp_path / "bad0.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "good0.mp4").read_bytes())
    bad = [
        (good | {"chosen": "none.mp4"}, "none.mp4: no such file: correct the path or drop the row"),
        (good | {"rejected": "cut.mp4"}, "cut.mp4: truncated or not a video"),
        (good | {"chosen": "short.mp4"}, "short.mp4: has 0.4 s of video, the model needs 0.6 s (5 frames at 8 fps)"),
        (good | {"segment": [0.5, 9]}, "good0.mp4: has 0.2 s of video in the segment [0.5, 9]"),
        (good | {"prompt": "  "}, "prompt is '  ': write a text that is not empty"),
        (good | {"rejected": "copy.mp4"}, "chosen and rejected are the same video (good0.mp4, copy.mp4): drop the row"),
        (good | {"choosen": "a.mp4"}, "unknown column 'choosen', in 1 of 13 rows: did you mean 'chosen'?"),
        ({"prompt": "p", "chosen": "good0.mp4"}, "rejected is missing: add it or drop the row"),
        (good | {"segment": [2, 1]}, "segment is [2, 1]: write [start, end] in seconds"),
        (good | {"prompt": 5, "annotators": "a"}, "annotators is 'a': write a list of strings"),
        (good | {"image": "bad0.mp4"}, "bad0.mp4: not a readable image"),
        ('{"prompt": \n', "not JSON"),
        ("[1]\n", "is [1]: write an object"),
    ]
    path = write_jsonl(tmp_path / "m.jsonl", [good, *(record for record, _ in bad), good])
    with pytest.raises(ManifestError, match="13 bad rows") as raised:
        load(path, PairRow, Spec())
    said = {}
    for problem in raised.value.problems:
        said[problem.line] = f"{said.get(problem.line, '')} {problem.message}"
    assert sorted(said) == list(range(2, 15))
    for line, (_, message) in enumerate(bad, start=2):
        assert message in said[line] and f"line {line}: " in str(raised.value)
    assert "prompt is 5" in said[11]


def test_parquet_reads_as_jsonl_does(tmp_path, records, manifest):
    records[0] |= {"segment": [0.0, 0.7], "annotators": ["a"]}  # null in the other rows of the Parquet file
    write_jsonl(manifest, records)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "m.parquet")
    assert load(tmp_path / "m.parquet", PairRow, Spec()) == load(manifest, PairRow, Spec())


def test_a_parquet_file_has_rows_not_lines(tmp_path, records):
    records[2]["chosen"] = "nowhere.mp4"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "metadata.parquet")
    for path in (tmp_path, tmp_path / "metadata.parquet"):
        with pytest.raises(ManifestError, match="1 bad row\n  row 3: .*nowhere.mp4"):
            load(path, PairRow, Spec())
        assert "\n  row 3: wrong" in str(ManifestError(path, [Problem(3, "wrong")]))


def test_what_is_not_a_manifest_says_so(tmp_path):
    with pytest.raises(UserError, match="data.path"):
        read(tmp_path / "none.jsonl", PairRow)
    for name in ("m.txt", "m.parquet"):
        (tmp_path / name).write_text("a,b")
        with pytest.raises(ValueError, match=f"{name}: .*(give one as data.path|write it again)"):
            read(tmp_path / name, PairRow)
    with pytest.raises(ManifestError, match="no rows"):
        load(write_jsonl(tmp_path / "m.jsonl", []), PairRow, Spec())


@dataclass(frozen=True, kw_only=True)
class AnchorRow(Row):
    video: VideoFile
    label: Literal["positive", "negative"]


def test_another_kind_of_row_is_a_dataclass(tmp_path, records):
    good = {"prompt": "p", "video": "good0.mp4", "label": "positive"}
    (row,) = load(write_jsonl(tmp_path / "m.jsonl", [good]), AnchorRow, Spec())
    assert row.video == tmp_path / "good0.mp4" and row.label == "positive"
    with pytest.raises(ManifestError, match="label is 'good': write one of 'positive', 'negative'"):
        load(write_jsonl(tmp_path / "m.jsonl", [good | {"label": "good"}]), AnchorRow, Spec())


def test_a_phones_truncated_upload_is_found_without_decoding_it(tmp_path, records):
    write_video(tmp_path / "a.mp4", torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), 8, enlarge=False)
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: int(len(whole) * 0.8)])  # still long enough for the model
    with pytest.raises(ManifestError, match="line 1: .*a.mp4: truncated"):
        load(write_jsonl(tmp_path / "m.jsonl", [records[0] | {"chosen": "a.mp4"}]), PairRow, Spec())


def test_no_hostile_row_hides_another(tmp_path, records):
    good = records[0]
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "folder.mp4").mkdir()
    rows = [
        (json.dumps(good | {"image": "bomb.png"}), "bomb.png: .*pixels"),
        ("[" * 100_000, r"not JSON \(nested too deeply\)"),
        ('{"prompt": ' + "9" * 5000 + "}", "not JSON .*digits"),
        ("[" * 900 + "]" * 900, r"is \[\[\[...\]\]\]: write an object"),
        ('"a text"', "is 'a text': write an object"),
        ("NaN", "is nan: write an object"),
        ('{"prompt": "a", "prompt": "b"}', "a name is there twice"),
        (
            json.dumps(good | {"prompt": "a \ud800 b"}),
            "prompt is .*: write UTF-8 text, without NUL and lone surrogates",
        ),
        (json.dumps(good | {"prompt": "a \0 b"}), "prompt is .*without NUL"),
        (json.dumps(good | {"prompt": 10**4000}), "prompt is 1000.*: write a text"),
        (json.dumps(good | {"chosen": "good0\0.mp4"}), "chosen is .*without NUL"),
        (json.dumps(good | {"chosen": "good0\n.mp4"}), "chosen is .*without control characters"),
        (json.dumps(good | {"chosen": "x" * 300}), "File name too long"),
        (json.dumps(good | {"chosen": "folder.mp4"}), "folder.mp4: no such file"),
        (json.dumps(good | {"chosen": {"_target_": "os.system"}}), "chosen is {'_target_': 'os.system'}: write a text"),
        (json.dumps(good | {"segment": [0, 10**400]}), "segment is .*: write"),
        (json.dumps(good | {"segment": [0, float("inf")]}), "segment is .*: write"),
        (json.dumps(good | {"segment": [False, True]}), "segment is .*: write"),
        (json.dumps(good | {"segment": [0, 60]}), r"the segment \[0, 60\] ends after the video \(0.8 s\)"),
        (json.dumps(good | {"annotators": ["a", 1]}), "annotators is .*: write a list of strings"),
        *(
            (json.dumps(good | {"domain": path}), "domain is .*: write a name, such as human")
            for path in ("../a.txt", "/etc/passwd", "a/b.txt", "..", "a\0.txt", 5)
        ),
    ]
    path = write_jsonl(tmp_path / "m.jsonl", [f"{text}\n" for text, _ in rows])
    with pytest.raises(ManifestError) as raised:
        load(path, PairRow, Spec())
    said = {problem.line: problem.message for problem in raised.value.problems}
    assert sorted(said) == list(range(1, len(rows) + 1))
    for line, (_, message) in enumerate(rows, start=1):
        assert re.search(message, said[line]) and len(said[line]) < 600, said[line]
    assert "\n" not in "".join(said.values())


@pytest.mark.parametrize("label", [True, 1.0, "1", 0, 5, None, [1]])
def test_a_label_is_one_of_four_whole_numbers(tmp_path, records, label):
    row = {"prompt": "p", "first": "good0.mp4", "second": "bad0.mp4", "label": label}
    with pytest.raises(ManifestError, match="line 1: label is"):
        load(write_jsonl(tmp_path / "m.jsonl", [row]), RankingRow, Spec())


def test_a_domain_is_a_name_even_where_a_file_of_that_name_lies(tmp_path, records):
    (tmp_path / "cars.txt").write_text("Which car?")
    (row,) = load(write_jsonl(tmp_path / "m.jsonl", [records[0] | {"domain": "cars.txt"}]), PairRow, Spec())
    assert row.domain == "cars.txt"
