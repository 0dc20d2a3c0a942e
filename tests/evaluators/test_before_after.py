"""Which conditions pictures show, and what they say of them."""

from apo.evaluators.before_after import colour, pick, verdict
from apo.interfaces import Criterion

CLEAN = Criterion("distortion_rate", "distorted", better=False, good="clean", bad="distorted", reason="cause")
LOUD = Criterion("loud_share", "loud", better=True, good="loud", bad="silent")


def test_conditions_on_which_verdicts_differ_come_first_in_either_direction():
    ours, theirs = ({"rows": [{"distorted": flag == "x"} for flag in flags]} for flags in ("..x.x", ".xx.."))
    assert pick([ours, theirs], "distorted", 4) == [1, 4, 0, 2]
    assert pick([ours, theirs], None, 4) == [0, 1, 2, 3]


def test_a_caption_is_red_where_a_video_is_bad_and_says_why():
    rows = {"distorted": False, "cause": ""}, {"distorted": True, "cause": "split"}
    assert [(verdict(row, CLEAN), colour(row, CLEAN)) for row in rows] == [
        ("clean", "black"),
        ("distorted: split", "firebrick"),
    ]
    assert (verdict({"loud": False}, LOUD), colour({"loud": False}, LOUD)) == ("silent", "firebrick")
    assert (verdict({}, None), colour({}, None)) == ("", "black")
