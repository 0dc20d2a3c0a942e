"""The oracle against a blind eye: what is counted, and what a picture may claim."""

import pandas as pd

from apo.reports.oracle_audit import CLEAN, LABELS, SLIGHT, order, table, telling

VIDEOS = [(arm, condition) for arm in ("before", "after") for condition in range(3)]
EYE = dict(zip(VIDEOS, ["shape", SLIGHT, "shape", CLEAN, CLEAN, CLEAN]))
ORACLE = dict(zip(VIDEOS, ["deformed", "split", CLEAN, CLEAN, CLEAN, "cut"]))


def test_a_table_counts_what_is_missed_and_what_is_flagged_without_need():
    head, _, eye, slight, oracle = table(EYE, {"oracle": ORACLE}).split("\n")
    assert [cell.strip() for cell in head.split("|")[2:5]] == ["missed: shape", "flagged: slight", "flagged: clean"]
    assert "| 1 of 2 | 1 of 1 | 1 of 3 | 33 % " in oracle and "| 67 % " in oracle
    assert "| 0 of 2 | 0 of 1 | 0 of 3 |" in eye and "| 0 of 2 | 1 of 1 | 0 of 3 |" in slight


def test_a_picture_claims_only_what_eye_and_oracle_both_say():
    assert telling(EYE, ORACLE, "before", "after") == [0]


def test_the_order_hides_the_arms_and_the_labels_follow_it():
    labels = pd.read_csv(LABELS)
    shown = order(["baseline", "offline"], 100)
    assert sorted(shown) == [(arm, i) for arm in ("baseline", "offline") for i in range(100)]
    assert list(zip(labels.arm, labels.condition)) == shown and set(labels.eye) >= {CLEAN, SLIGHT}
    first = [arm for arm, _ in shown[:50]].count("baseline")
    assert 10 < first < 40
