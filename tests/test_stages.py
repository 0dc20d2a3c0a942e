"""Every stage on the user's own data, from the command line to an adapter that the next command takes."""

import json
from pathlib import Path

import pytest

from apo.tools.inputs import KINDS, ROOT, working_tree, write_manifests, write_ranking_model
from apo.tools.stages import SMALL, STAGES, VLM, adapter, command
from apo.tools.warm import Done, Warm

NAMES = {"ranker_8b": "ranker", "online_ahead": "online"}  # in the lineage, where it is another option's name


class Place:
    """A working tree, manifests of the four kinds, and the adapters that were trained there so far."""

    def __init__(self, home: Path, model: Path, warm: Warm):
        self.tree, self.model, self.warm = working_tree(home / "tree"), model, warm
        write_ranking_model(self.tree / VLM)
        self.manifests = write_manifests(home / "data", 4)

    def run(self, *command: str) -> Done:
        return self.warm.run(command, self.tree, 300)

    def train(self, stage: str, kind: str, run: str) -> Done:
        return self.run(*command(stage, kind, run, self.model, self.manifests))

    def lineage(self, stage: str) -> dict:
        """Of a stage's adapter, which is trained if it is not there, after what it needs."""
        path, needs = self.tree / adapter(stage) / "lineage.json", STAGES[stage]
        if not path.exists():
            for needed in filter(None, (needs.start, needs.ranker)):
                self.lineage(needed)
            done = self.train(stage, needs.kind, stage)
            assert done.code == 0, done.output[-3000:]
        return json.loads(path.read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory, wan22_folder):
    with Warm(ROOT) as warm:
        yield Place(tmp_path_factory.mktemp("stages"), wan22_folder, warm)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_with_an_adapter_of_its_data_that_the_next_one_takes(place, stage):
    lineage = place.lineage(stage)
    went = [NAMES.get(name, name) for name in (STAGES[stage].start, stage) if name]
    assert lineage["stages"][-2:] == went and lineage["stage"] == went[-1] and len(lineage["data"]) == 64
    assert lineage["files"] and all((place.tree / adapter(stage) / name).stat().st_size for name in lineage["files"])


def test_the_last_adapter_is_evaluated_and_exported(place):
    place.lineage("distill_dpo")
    own = (
        f"model.path={place.model}",
        *SMALL[:2],
        "conditions=prompts",
        f"conditions.path={place.manifests['prompts']}",
    )
    done = place.run(
        "evaluate.py", "run=distill_dpo", "stage=run", "evaluator=none", "conditions.count=1", "videos=1", *own
    )
    assert done.code == 0 and list((place.tree / "outputs/distill_dpo/run").glob("eval*/videos/*.mp4")), done.output[
        -3000:
    ]
    done = place.run("-m", "apo.export", adapter("distill_dpo"), "--out", "exported")
    assert done.code == 0 and len(list((place.tree / "exported").glob("*.safetensors"))) == 2, done.output[-3000:]


@pytest.mark.parametrize("stage", STAGES)
def test_data_of_another_kind_is_refused_in_one_line(place, stage):
    place.lineage(stage)
    for kind in set(KINDS) - {STAGES[stage].kind}:
        done = place.train(stage, kind, "wrong")
        assert done.code == 1 and len(done.lines) == 1, done.output
        assert f"trains on {STAGES[stage].kind}, and this data= gives {kind}" in done.output
