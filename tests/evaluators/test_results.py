"""Reports speak of what the evaluator's criteria name, whatever that is."""

import csv
import io

import pytest

from apo.evaluators import results
from apo.interfaces import Criterion

SHARP = Criterion("blur_rate", "blurred", better=False, good="sharp", bad="blurred", reason="where")
LOUD = Criterion("loud_share", "loud", better=True, good="loud", bad="silent")


def arm(name: str, blurred: str, loud: str) -> dict:
    """Of four videos; x: yes."""
    rows = [
        {"prompt": "a", "blurred": b == "x", "where": "edges" * (b == "x"), "loud": x == "x"}
        for b, x in zip(blurred, loud)
    ]
    metrics = {"blur_rate": {"value": 0.5, "low": 0.1, "high": 0.9}}
    return {"key": name, "run": "r", "stage": name, "n": 4, "metrics": metrics, "rows": rows}


@pytest.fixture
def two():
    ours, theirs = arm("ours", "..x.", "xx.."), arm("theirs", "xxx.", "x.xx")
    ours["against"] = {"run": "theirs"} | results.compared(ours["rows"], theirs["rows"], [SHARP, LOUD])
    return ours, theirs


def test_the_first_criterion_stands_at_the_top_and_others_under_their_metrics(two):
    against = two[0]["against"]
    assert list(against) == ["run", "win", "tie", "loss", "win_rate", "loud_share"]
    assert (against["win"], against["tie"], against["loss"]) == (2, 2, 0)
    assert [against["loud_share"][key] for key in ("win", "tie", "loss")] == [1, 1, 2]


def test_report_and_tables_use_their_words(two):
    text = results.markdown(two[0], [SHARP, LOUD], two[1])
    assert "| edges | 3 | 1 |" in text
    assert "Against theirs: 2 won, 2 tied, 0 lost (sharp beats blurred); loud share: 1 won, 1 tied, 2 lost." in text
    head, _, first, second = (
        line for line in results.joint(two[::-1], [SHARP, LOUD], "theirs").splitlines() if line[:1] == "|"
    )
    assert "sharp: win/tie/loss | loud: win/tie/loss" in head
    assert "2/2/0 | 1/1/2" in second and "/" not in first
    rows = list(csv.DictReader(io.StringIO(results.joint_csv(two[::-1], [SHARP, LOUD]))))
    assert (rows[0]["sharp_win"], rows[1]["sharp_win"], rows[1]["loud_loss"]) == ("", "2", "2")


def test_without_criteria_nothing_is_compared(two):
    assert results.compared(two[0]["rows"], two[1]["rows"], []) == {}
    two[0]["against"] = {"run": "theirs"}
    assert "Against theirs: no verdicts to compare." in results.markdown(two[0], [], two[1])
    assert "win/tie/loss" not in results.joint(two, [], None).splitlines()[2]
