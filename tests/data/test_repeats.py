"""What is said of rows that repeat or contradict each other."""

import shutil

from apo.data.anchors import AnchorRow
from apo.data.manifest import PairRow, load
from apo.data.pairs import UserPairs
from apo.data.prompts import PromptRow
from apo.data.rankings import RankingRow
from apo.data.repeats import notes
from apo.parts import Setting
from tests.data.clips import Spec, write_jsonl


def of(folder, row_type, rows: list[dict]) -> list[str]:
    return notes(load(write_jsonl(folder / "rows.jsonl", rows), row_type, Spec()))


def test_nothing_is_said_of_rows_that_all_differ(tmp_path, records):
    assert of(tmp_path, PairRow, records) == []
    assert (
        of(tmp_path, PairRow, [records[0], records[0] | {"prompt": "another"}, records[0] | {"segment": [0, 0.7]}])
        == []
    )


def test_a_pair_there_twice_and_a_pair_and_its_opposite_are_counted(tmp_path, records, capsys):
    shutil.copy(tmp_path / "good0.mp4", tmp_path / "copy.mp4")  # another name, the same video
    opposite = records[1] | {"chosen": records[1]["rejected"], "rejected": records[1]["chosen"]}
    rows = [*records[:2], records[0] | {"chosen": "copy.mp4"}, opposite]
    said = [
        "1 of 4 rows repeat another and count again: rows 3",
        "1 contradiction, rows that judge the same videos differently: rows 2 and 4",
    ]
    assert of(tmp_path, PairRow, rows) == said
    data = UserPairs(str(tmp_path / "rows.jsonl"), str(tmp_path / "cache"), validation_fraction=0.0, seed=0)
    data.check(Setting(Spec()))  # no error: people disagree
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/rows.jsonl: {line}" for line in said]


def test_every_kind_of_row_can_contradict_another(tmp_path, records):
    ranking = {"prompt": "p", "first": "good0.mp4", "second": "bad0.mp4", "label": 1}
    turned = {"prompt": "p", "first": "bad0.mp4", "second": "good0.mp4"}
    assert of(tmp_path, RankingRow, [ranking, turned | {"label": 2}]) == [
        "1 of 2 rows repeat another and count again: rows 2"
    ]
    for other in (turned | {"label": 1}, ranking | {"label": 2}, turned | {"label": 4}):
        assert "1 contradiction" in of(tmp_path, RankingRow, [ranking, other])[0]
    anchor = {"prompt": "p", "video": "good0.mp4", "label": "positive"}
    assert "1 contradiction" in of(tmp_path, AnchorRow, [anchor, anchor | {"label": "negative"}])[0]


def test_many_lines_are_cut_short(tmp_path, records):
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert of(tmp_path, PromptRow, [{"prompt": "p", "image": "a.png"}] * 20) == [
        "19 of 20 rows repeat another and count again: rows 2, 3, 4, 5, 6, 7, 8, 9 and 11 more"
    ]
