"""What README.md promises a stranger: it is short, says at once what it is, and claims nothing that is not shown."""

import re
import subprocess
from pathlib import Path

import pytest

from apo.config.help import options

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUPS = ("model", "trainer", "ranker")  # whose options have very different evidence
SITUATIONS = {
    "I want to try it.": "make demo",
    "I have labelled pairs.": "stage=offline",
    "I have prompts and a ranker.": "stage=online",
    "I want it fast.": "stage=distill",
    "I want the paper's curriculum.": "make curriculum",
}


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_it_has_at_most_1300_words_and_no_paragraph_over_90():
    """Words as `wc -w` counts them, code and tables included. Paragraphs end at blank lines; code and
    tables are none.
    """
    counted = subprocess.run(["wc", "-w", ROOT / "README.md"], capture_output=True, text=True, check=True).stdout
    assert int(counted.split()[0]) <= 1300
    parts = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S).split("\n\n")
    paragraphs = [part for part in parts if not part.startswith(("|", "<!--"))]
    assert max(len(paragraph.split()) for paragraph in paragraphs) <= 90


def test_its_first_lines_say_what_is_in_the_box_and_what_no_gpu_has_run():
    title, blank, *lines = README.splitlines()
    assert title.startswith("# ") and not blank
    assert all(words in lines[1] for words in ("2 x 1.2 M parameters", "64 x 64", "digits and photographs", "oracle"))
    assert all(lines[:3]) and not lines[3] and "GPU" in lines[4] and "has been run" in lines[4]


def test_it_shows_the_picture_the_clone_and_the_two_commands():
    assert "](docs/before_after.png)" in README and "git clone https://" in README
    assert re.search(r"^make demo .*\n^make test ", README, re.M)
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split())
    assert (
        f"torch=={pinned['torch']} torchvision=={pinned['torchvision']} --index-url https://download.pytorch.org/whl/cu"
        in README
    )


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_has_one_command_with_what_to_expect_and_when_to_stop(situation):
    found = re.search(rf"^\*\*{re.escape(situation)}\*\*(.*?)^```bash\n(.*?)^```$", section("Use this"), re.M | re.S)
    assert "xpect" in found[1] or "minutes of one core" in found[1]
    assert re.search(r"[Ss]top", found[1]) and len(found[2].splitlines()) == 1 and SITUATIONS[situation] in found[2]


def test_every_number_of_its_results_stands_in_the_results_page():
    page, table = (
        (ROOT / "docs/results.md").read_text(encoding="utf-8"),
        re.findall(r"^\|.*\|$", section("Results in the world"), re.M),
    )
    numbers = [number for row in table for number in re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", row)]
    assert len(numbers) > 20 and [number for number in numbers if number not in page] == []


def test_each_level_of_evidence_names_tests_that_exist_and_each_option_has_one_level():
    levels = [row.split("|") for row in re.findall(r"^\|.*\|$", section("How far each part has been tried"), re.M)[2:]]
    assert len(levels) == 3
    for _, level, _, tests, _ in levels:
        pointers = re.findall(r"`(tests/[\w/]+\.py):(test_\w+)`", tests)
        assert pointers, level
        for path, name in pointers:
            assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {name}"
    for group in GROUPS:
        for option in options(group):
            named = [level for _, level, names, _, _ in levels if re.search(rf"`(?:{group}=)?{option}`", names)]
            assert len(named) == 1, f"{group}={option} is said to be {named}: give it one level of evidence"
