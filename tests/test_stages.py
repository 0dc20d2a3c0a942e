"""Every stage on the user's own data, from the command line to an adapter that the next command takes."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from apo.tools.inputs import KINDS, ROOT, working_tree, write_manifests
from apo.tools.warm import Done, Warm

VLM = "vlm"  # in the working tree: a Qwen3-VL that is not the world's
SMALL = (
    "model.spec={height: 32, width: 48, frames: 9, fps: 8}", "model.num_inference_steps=4", "policy.lora.rank=2", "max_steps=2",
    "checkpoint_every_n_steps=1", "sample_every_n_steps=0", "validate_every_n_steps=2", "batch_size=2", "logger=csv", "trainer.threads=1",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """kind: of its data. start: the stage whose adapter it starts from. ranker: the one whose adapter judges."""

    kind: str
    start: str | None = None
    ranker: str | None = None
    vlm: bool = False

    def overrides(self) -> list[str]:
        start = [f"adapter={adapter(self.start)}"] if self.start else []
        judge = ["ranker=qwen3_vl", f"ranker.path={VLM}", "ranker.frames=4", f"ranker.adapter={adapter(self.ranker)}"]
        return start + (judge if self.ranker else []) + ([f"vlm.path={VLM}", "vlm.dtype=float32", "vlm.frames=4"] if self.vlm else [])


def adapter(stage: str) -> str:
    return f"outputs/{stage}/run/adapter"


STAGES = {
    "ranker": Stage("rankings", vlm=True),
    "ranker_8b": Stage("rankings", start="ranker", vlm=True),
    "sft": Stage("pairs"),
    "offline": Stage("pairs", start="sft"),
    "online": Stage("prompts", start="offline", ranker="ranker"),
    "online_ahead": Stage("prompts", start="online", ranker="ranker_8b"),
    "half_online": Stage("anchors", start="online_ahead"),
    "distill": Stage("pairs", start="half_online"),
    "distill_dpo": Stage("pairs", start="distill"),
}
NAMES = {"ranker_8b": "ranker", "online_ahead": "online"}  # in the lineage, where it is another option's name


class Place:
    """A working tree, manifests of the four kinds, and the adapters that were trained there so far."""

    def __init__(self, home: Path, model: Path, warm: Warm):
        self.tree, self.model, self.warm = working_tree(home / "tree"), model, warm
        shutil.copytree(ROOT / "apo/world/checkpoints/ranker/base", self.tree / VLM)
        self.manifests = write_manifests(home / "data", 4)

    def run(self, *command: str) -> Done:
        return self.warm.run(command, self.tree, 300)

    def train(self, stage: str, kind: str, run: str) -> Done:
        data = (f"data={kind}", f"data.path={self.manifests[kind]}", f"model.path={self.model}", *STAGES[stage].overrides())
        return self.run("train.py", f"stage={stage}", f"run={run}", f"hydra.run.dir=outputs/{run}/run", *SMALL, *data)

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
    own = (f"model.path={place.model}", *SMALL[:2], "conditions=prompts", f"conditions.path={place.manifests['prompts']}")
    done = place.run("evaluate.py", "run=distill_dpo", "stage=run", "evaluator=none", "conditions.count=1", "videos=1", *own)
    assert done.code == 0 and list((place.tree / "outputs/distill_dpo/run").glob("eval*/videos/*.mp4")), done.output[-3000:]
    done = place.run("-m", "apo.export", adapter("distill_dpo"), "--out", "exported")
    assert done.code == 0 and len(list((place.tree / "exported").glob("*.safetensors"))) == 2, done.output[-3000:]


@pytest.mark.parametrize("stage", STAGES)
def test_data_of_another_kind_is_refused_in_one_line(place, stage):
    place.lineage(stage)
    for kind in set(KINDS) - {STAGES[stage].kind}:
        done = place.train(stage, kind, "wrong")
        assert done.code == 1 and len(done.lines) == 1, done.output
        assert f"trains on {STAGES[stage].kind}, and this data= gives {kind}" in done.output
