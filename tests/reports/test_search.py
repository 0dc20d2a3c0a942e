"""The search: one coordinate after another, the same for every arm, nothing twice."""

import pytest

from apo.reports import search as module
from apo.reports.search import COORDINATES, Search, table


@pytest.fixture
def found(monkeypatch):
    """A search whose distortion falls towards (1e-4, 1000, 16, 16), unless dynamics die: at rank 4 they do."""
    calls = []

    def score(self, arm, settings):
        calls.append((arm, dict(settings)))
        rate = 0.1 * (settings["optimizer.lr"] > 2e-4) + 0.05 * (settings["objective.beta"] == 500)
        rate += 0.02 * (settings["batch_size"] == 8) + 0.2 * (settings["policy.lora.rank"] == 16)
        row = {"settings": settings, "distorted": rate, "dynamics": 1.0, "followed": 0.9, "n": 192, "chosen": False}
        row["moves"] = settings["policy.lora.rank"] != 4
        self.found[arm].append(row)
        return row

    monkeypatch.setattr(Search, "score", score)
    search = Search("x", 192, 1, ("apo", "no_window"))
    for arm in search.arms:
        search.best(arm)
    return search, calls


def test_the_best_of_each_coordinate_is_kept(found):
    search, _ = found
    for rows in search.found.values():
        (chosen,) = [row["settings"] for row in rows if row["chosen"]]
        assert chosen == {"optimizer.lr": 1e-4, "objective.beta": 1000, "policy.lora.rank": 16, "batch_size": 16}


def test_every_arm_gets_the_same_number_of_tries(found):
    search, calls = found
    tries = 1 + sum(len(values) - 1 for values in COORDINATES.values())
    assert [len(rows) for rows in search.found.values()] == [tries, tries]
    assert len({str(call) for call in calls}) == len(calls)


def test_compute_is_equal_at_every_batch(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(module, "call", lambda *arguments: commands.append(arguments))
    monkeypatch.setattr(
        module, "read", lambda folder: {"distorted": 0.2, "dynamics": 1.0, "followed": 0.9, "n": 192, "against": {}}
    )
    search = Search("x", 192, 1, ("apo", "no_window"))
    for arm, batch in (("apo", 8), ("apo", 16), ("no_window", 16)):
        search.score(arm, {key: values[0] for key, values in COORDINATES.items()} | {"batch_size": batch})
    steps = [next(a for a in command if a.startswith("max_steps")) for command in commands if command[0] == "train.py"]
    assert steps == ["max_steps=100", "max_steps=50", "max_steps=250"]


def test_the_table_marks_what_was_chosen(found):
    search, _ = found
    text = table({arm: [row | {"against": {}} for row in rows] for arm, rows in search.found.items()})
    assert text.count("**apo**") == 1 and "**0.0001**" in text
