"""Commands that need one another: order, failures, what is done already, how long it takes."""

import signal
import threading
import time
from itertools import accumulate

import pytest

from apo.errors import UserError
from apo.studies.jobs import Job, Runner


@pytest.fixture
def job(tmp_path):
    """Makes a job that runs a line of Python; `tmp_path/order` has the names of those that ran."""

    def made(name: str, code: str = "", **options) -> Job:
        note = f"open({str(tmp_path / 'order')!r}, 'a').write('{name} '); {code}"
        return Job(name, options.pop("kind", "usual"), ["-c", note], tmp_path / f"{name}.log", **options)

    return made


def order(tmp_path) -> list[str]:
    return (tmp_path / "order").read_text().split()


def test_a_job_begins_once_what_it_needs_is_done_and_each_runs_once(job, tmp_path):
    first = job("first")
    second = job("second", needs=[first])
    runner = Runner(2)
    runner.run([second, first])
    runner.run([second, first])
    assert order(tmp_path) == ["first", "second"] and runner.done == {first, second}


def test_a_failure_is_one_line_and_stops_only_what_needs_it(job, tmp_path, capsys):
    broken = job("broken", "raise SystemExit('x.y=3: give 2')")
    after, other = job("after", needs=[broken]), job("other")
    runner = Runner(1)
    runner.run([broken, after, other])
    said = capsys.readouterr().out.splitlines()
    assert f"[1/3] broken FAILED: x.y=3: give 2 (all that it printed: {tmp_path}/broken.log)" in said
    assert "[2/3] after FAILED: it needs broken" in said and order(tmp_path) == ["broken", "other"]


def test_what_is_done_is_asked_only_after_what_it_needs_and_not_run(job, tmp_path):
    first = job("first")
    second = job("second", needs=[first], done=lambda: (tmp_path / "order").exists())
    runner = Runner(1)
    runner.run([first, second])
    assert order(tmp_path) == ["first"] and second in runner.done


def test_what_would_be_refused_fails_without_being_run(job, tmp_path):
    def refuse():
        raise UserError("config.yaml is of a run with other settings")

    wrong = job("wrong", done=refuse)
    runner = Runner(1)
    runner.run([wrong])
    assert runner.failed[wrong] == "config.yaml is of a run with other settings" and not (tmp_path / "order").exists()


def test_a_dry_runner_lists_what_is_missing_in_an_order_that_works(job, tmp_path):
    there, first = job("there", done=lambda: True), job("first")
    second = job("second", needs=[first, there], done=lambda: True)  # of what is not done yet it knows nothing
    runner = Runner(1, dry=True)
    runner.run([there, second, first])
    assert runner.missing == [first, second] and not (tmp_path / "order").exists()


def test_so_many_at_a_time_and_no_more(tmp_path):
    code = f"import time; f = open({str(tmp_path / 'order')!r}, 'a', 1); f.write('+ '); f.flush(); "
    code += "time.sleep(0.4); f.write('- ')"
    Runner(2).run([Job(name, "usual", ["-c", code], tmp_path / f"{name}.log") for name in "abcd"])
    depth = list(accumulate(1 if sign == "+" else -1 for sign in order(tmp_path)))
    assert max(depth) == 2 and len(depth) == 8


def test_the_time_left_is_that_of_jobs_of_the_kind(job):
    runner = Runner(2)
    runner.took = {"training": [10.0, 30.0]}
    assert runner.left([job("a", kind="training"), job("b", kind="training")]) == 20
    assert runner.left([job("c", kind="evaluation")]) == 10  # as other kinds took
    assert Runner(2).left([job("d")]) is None


def test_an_interrupt_reaches_what_runs_once_and_is_waited_for(job, tmp_path):
    saves = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (open(sys.argv[1], 'a').write('saved '), sys.exit(130)))
open(sys.argv[1], 'a').write('began ')
time.sleep(60)
"""
    running = Job("long", "usual", ["-c", saves, str(tmp_path / "order")], tmp_path / "long.log")

    def interrupt():
        while not (tmp_path / "order").exists() or "began" not in (tmp_path / "order").read_text():
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        Runner(1).run([running])
    assert order(tmp_path) == ["began", "saved"]
