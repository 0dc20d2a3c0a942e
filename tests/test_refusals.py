"""What a command refuses before any model is loaded: in one line, and without the libraries that take seconds to
import.
"""

import json
import subprocess
import sys

from tests.commands import ROOT

LIGHT = [  # a command that is refused, and how
    (["train.py", "max_steps=-1"], "config: max_steps=-1"),
    (["train.py", "sampler.high_rows=-1"], "config: sampler.high_rows=-1"),
    (["train.py", "policy.lora.targets=[nope]"], "config: policy.lora.targets"),
    (["train.py", "trainer.shard=2"], "config: trainer.shard=2"),
    (["train.py", "stage=online", "ranker.error_rate=0.9"], "config: ranker.error_rate=0.9"),
    (["train.py", "stage=online", "ranker=qwen3_vl", "ranker.path=apo/nope"], "config: ranker.path=apo/nope"),
    (
        ["train.py", "stage=half_online", "sample_every_n_steps=3", "module.windows_per_pair=2"],
        "config: sample_every_n_steps=3",
    ),
    (["train.py", "stage=ranker", "vlm.path=apo/nope"], "config: vlm.path=apo/nope"),
    (["train.py", "stage=ranker", "data.candidates=1"], "config: data.candidates=1"),
    (["train.py", "stage=distill", "distill.omega=3"], "config: distill.omega=3"),
    (["train.py", "stage=sft", "data=pairs", "data.path=nope.jsonl"], "config: nope.jsonl"),
    (["train.py", "lr=1e-9"], "config: lr: there is no such setting; did you mean optimizer.lr"),
    (["train.py", "+lr=1e-9"], "config: lr: there is no such setting; did you mean optimizer.lr"),
    (["train.py", "sampler=nope"], "config: sampler=nope: there is no such option"),
    (["train.py", "optimizer.betas=[2,0.9]"], "config: optimizer.betas[0]=2"),
    (["train.py", "-m", "sampler=apo,nope", "max_steps=-1"], "config: sampler=nope: there is no such option"),
    (["train.py", "a=b=c"], "config: a=b=c"),
    (["train.py", "~sampler"], "config: sampler is not set"),
    (["evaluate.py", "batchsize=3"], "evaluate: batchsize: there is no such setting; did you mean batch_size"),
    (["evaluate.py", "+stages=3"], "evaluate: stages: there is no such setting; did you mean stage"),
    (["apo.plan", "plan=h300"], "plan: plan=h300: there is no such option"),
    (["apo.data.cache", "modle=tiny"], "cache: modle: there is no such setting; did you mean model"),
    (["evaluate.py", "stage=nope"], "evaluate: stage=nope: outputs/main/nope is not there"),
    (["evaluate.py", "stage=null", "results=../x"], "evaluate: results=../x"),
    (["evaluate.py", "stage=null", "model.spec.height=128"], "evaluate: conditions=world"),
    (["apo.plan", "max_steps=-1"], "plan: max_steps=-1"),
    (["apo.plan", "trainer.devices=3", "trainer.shard=2"], "plan: trainer.shard=2"),
    (["apo.plan", "policy.lora.targets=[nope]"], "plan: policy.lora.targets"),
    (["apo.data.cache", "data=pairs", "data.path=nope.jsonl"], "cache: nope.jsonl"),
    (["apo.export", "nope", "--out", "nowhere"], "export: nope"),
]


BARE = [  # what takes no torch to be known
    ["train.py", "max_steps=-1"],
    ["train.py", "sampler.high_rows=-1"],
    ["train.py", "lr=1e-9"],
    ["train.py", "trainer.devices=2"],
    ["train.py", "trainer=fsdp", "trainer.shard=3"],
]


def ended(commands: list[list[str]], folder) -> list:
    """What each command ended with, and the slow libraries that were imported by then."""
    given = [[*command, f"hydra.run.dir={folder}"] if command[0] == "train.py" else command for command in commands]
    result = subprocess.run(
        [sys.executable, "-m", "tests.refusals", json.dumps(given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(found) == len(commands) and not result.stderr, result.stderr[-2000:]
    return found


def test_a_refusal_imports_no_library_that_takes_seconds(tmp_path):
    for (command, said), (end, slow) in zip(LIGHT, ended([command for command, _ in LIGHT], tmp_path)):
        assert str(end).startswith(said) and "\n" not in end, command
        assert slow in ([], ["torch"]), command


def test_numbers_and_processes_are_refused_before_torch_is_imported(tmp_path):
    for command, (end, slow) in zip(BARE, ended(BARE, tmp_path)):
        assert str(end).startswith("config: ") and slow == [], command
