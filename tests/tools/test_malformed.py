"""A sample of the malformed inputs, and how an ending is judged."""

from apo.tools.cases import EITHER, Case
from apo.tools.malformed import all_cases, judge, run
from apo.tools.warm import Done

SAMPLE = (
    "pairs.jsonl: no chosen",
    "anchors: label is 'good'",
    "rankings: first has cut",
    "prompts: image is missing",
    "pairs.jsonl: empty",
    "config: max_steps=0",
    "config: batch_size=0",
    "evaluate: stage=nowhere",
    "export: no adapter",
)


def test_a_sample_ends_with_one_line_that_names_what_is_wrong(tmp_path):
    cases = {case.name: case for case in all_cases(9)}
    verdicts = run([cases[name] for name in SAMPLE], 1, False, tmp_path)
    assert {verdict.name: verdict.wrong for verdict in verdicts} == dict.fromkeys(SAMPLE, "")


def test_there_are_enough_cases_each_with_a_name_of_its_own():
    names = [case.name for case in all_cases(9)]
    assert len(names) >= 350 and len(set(names)) == len(names)


def wrong(output: str, code: int = 1, cpu_s: float = 0.5, **of_case) -> str:
    return judge(Case("x", ("train.py",), ("lr",), **of_case), Done(code, output, cpu_s, 1.0), [], False).wrong


def test_what_an_ending_lacks_is_named():
    good = "config: lr=nan: give a number"
    assert wrong(good) == "" and wrong("config: 1 bad row\n  line 2: lr is 3: write text") == ""
    assert wrong("Traceback (most recent call last):\n" + good) == "traceback, more than one line"
    assert wrong("done", 0) == "accepted, does not name it" and wrong("lr: mended", 0, ends=EITHER) == ""
    assert wrong("config: it failed: give up") == "does not name it" and wrong("config: lr") == "no remedy"
    assert (
        wrong(good, cpu_s=4) == "slow"
        and wrong(good, cpu_s=4, loads=True) == ""
        and wrong(good, -9) == "killed by a signal"
    )
    assert (
        judge(Case("x", (), ()), Done(1, good, 0, 1), ["mine.mp4"], True).wrong == "planted code was run, files touched"
    )
