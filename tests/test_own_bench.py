"""A bench of the user's own goes through train.py and evaluate.py as the embedded world does."""

import json

import pytest

from apo.tools.warm import Warm
from tests.commands import ROOT

YAML = {
    "data/squares": "{_target_: tests.own_bench.SquarePrompts, count: 8, size: 64, seed: 0}",
    "ranker/squares": "{_target_: tests.own_bench.BrighterWins}",
    "conditions/squares": "{_target_: tests.own_bench.SquareConditions, count: 4, size: 64, seed: 1}",
    "evaluator/squares": """
_target_: tests.own_bench.SquareEvaluator
_recursive_: false
metrics:
  level: {_target_: apo.evaluators.base.Mean, of: level, least: 0.0, most: 255.0}
  brighter_share: {_target_: apo.evaluators.base.Proportion, of: brighter}
""",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in YAML.items():
        path = tmp_path / "options" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_it_trains_and_evaluates_and_the_report_speaks_its_words(folder):
    found = ["--config-dir", str(folder / "options")]
    train = ["run=own", "stage=online", "data=squares", "ranker=squares", "max_steps=2", "batch_size=1", "logger=csv"]
    few = ["model.num_inference_steps=6", "trainer.threads=1"]
    with Warm(ROOT) as warm:

        def run(script: str, *words: str) -> str:
            done = warm.run([str(ROOT / script), *found, *words, *few], folder, 300, PYTHONPATH=str(ROOT))
            assert done.code == 0, done.output[-3000:]
            return done.output

        said = run("train.py", *train, "sample_every_n_steps=0", "validate_every_n_steps=2")
        assert "evaluate.py run=own stage=online" in said and "conditions=squares evaluator=squares" in said
        own = [
            "run=own",
            "stage=online",
            "conditions=squares",
            "evaluator=squares",
            "videos=2",
            "batch_size=2",
            "logger=none",
        ]
        said = run("evaluate.py", *own)
    report = json.loads((folder / "outputs/own/online/eval/report.json").read_text())
    assert set(report["metrics"]) == {"level", "brighter_share"} and 0 < report["metrics"]["level"]["value"] < 255
    against = report["against"]
    assert against["run"] == "baseline" and against["win"] + against["tie"] + against["loss"] == report["n"] == 4
    assert "(brighter beats darker)" in said
    rows = json.loads((folder / "outputs/own/online/eval/rows.json").read_text())["rows"]
    assert set(rows[0]) == {"prompt", "level", "brighter"} and rows[0]["prompt"] == "a square becomes brighter"
    assert len(list((folder / "outputs/own/online/eval/videos").glob("*.mp4"))) == 2
