"""Which commands the documents show, and that each is run or listed."""

from apo.tools.commands import in_document, shown
from apo.tools.docs import Clone, cut, listed, problems, settings, snippet
from apo.tools.inputs import ROOT
from apo.tools.warm import Done, Real

TEXT = """# Title
Say `python train.py stage=offline` or `train.py` or `evaluate.py
run=main`, and `x_t`; `... results=here` too.

```bash
make demo    # everything
python train.py a=1 \\
    b=2      # two lines
# a remark
```

```python
print("make test")
```
"""


def test_commands_are_found_in_blocks_and_inline_code(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(TEXT)
    found = in_document(path, tmp_path)
    assert [(command.text, command.line) for command in found if not command.python] == [
        ("python train.py stage=offline", 2),
        ("python evaluate.py run=main", 2),
        ("python evaluate.py run=main results=here", 3),
        ("make demo", 6),
        ("python train.py a=1 b=2", 7),
    ]
    assert [command.text for command in found if command.python] == ['print("make test")\n']


def test_every_command_is_run_or_listed_with_a_reason_and_the_list_is_short():
    commands = shown(ROOT)
    assert problems(commands) == []
    not_run = [command for command in commands if listed(command) is not None]
    assert len(not_run) <= 10 < len(commands) and all(len(why) > 10 for why in settings()["not_run"].values())


def test_what_is_listed_and_no_longer_shown_is_a_problem():
    commands = [command for command in shown(ROOT) if not command.text.startswith("vllm")]
    assert problems(commands) == ["docs.yaml lists what no document shows: vllm serve"]
    block = next(command for command in commands if command.python and snippet(command.text) is not None)
    strange = type(block)("import this\n", "docs/x.md", 3, True)
    assert problems([*shown(ROOT), strange]) == ["docs/x.md:3: docs.yaml does not say how to run this block of Python"]


def test_the_defaults_of_a_tree_are_cut_where_docs_yaml_says(tmp_path):
    for pattern in settings()["cut"]:
        for path in ROOT.glob(pattern):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path.read_text())
    cut(tmp_path)  # raises if a file no longer has what is to be cut
    assert "max_steps: 2" in (tmp_path / "conf/train.yaml").read_text()


def test_a_command_that_is_written_in_two_ways_runs_once_and_after_what_it_needs(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(Clone, "program", lambda clone, words: ran.append(words[1:]) or Done(0, "", 2.0, 1.0))
    clone = Clone(tmp_path, Real())
    for text in ("python evaluate.py run=main stage=offline", "python evaluate.py run=<run> stage=<stage>"):
        clone.command(text)
    assert (
        ran == [["train.py", "stage=offline", "sampler=apo"], ["evaluate.py", "run=main", "stage=offline"]]
        and clone.cpu_s == 4.0
    )
