"""A few kills of two cheap targets, and what is counted as a loss."""

from apo.tools.kills import Cycle, run, table
from apo.tools.leftovers import done_twice, files


def test_killed_commands_end_as_if_nothing_had_happened_and_the_record_is_continued(tmp_path):
    cycles = run(["sft", "export"], 4, 1, 0, False, tmp_path)
    assert {cycle.target for cycle in cycles} == {"sft", "export"} and sum(cycle.kills for cycle in cycles) >= 4
    assert all(cycle.good for cycle in cycles), table(cycles)
    assert run(["sft", "export"], 4, 1, 0, False, tmp_path) == cycles  # nothing is left to do


def test_a_file_more_or_other_and_a_step_too_many_are_seen(tmp_path):
    (tmp_path / "a.txt").write_text("1")
    before = files(tmp_path)
    (tmp_path / "a.txt").write_text("2")
    (tmp_path / ".b.tmp").write_text("")
    after = files(tmp_path)
    assert after.keys() - before.keys() == {".b.tmp"} and after["a.txt"] != before["a.txt"]
    assert done_twice(["step 1 took 3 s", "step 2 took 4 s"], ["step 1 took 3 s", "step 2 took 5 s"]) == 1
    assert not Cycle("x", 0, 1, True, 3, "", "", "").good and Cycle("x", 0, 1, True, 2, "", "", "").good


def test_the_clock_and_the_order_of_a_header_are_no_difference(tmp_path):
    for folder, seconds, header in (("one", 1, b'{"a":1,"b":2}'), ("two", 9, b'{"b":2,"a":1}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.csv").write_text(f"step,time/rank\n0,{seconds}\n")
        (tmp_path / folder / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    assert files(tmp_path / "one") == files(tmp_path / "two")
