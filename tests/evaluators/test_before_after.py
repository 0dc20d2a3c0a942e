"""Which conditions pictures show."""

from apo.evaluators.before_after import pick


def test_conditions_on_which_verdicts_differ_come_first_in_either_direction():
    ours, theirs = ({"rows": [{"distorted": flag == "x"} for flag in flags]} for flags in ("..x.x", ".xx.."))
    assert pick([ours, theirs], "distorted", 4) == [1, 4, 0, 2]
