"""`data=prompts`: conditions of the user's own files, and the world's endless ones."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close

from apo.data.manifest import ManifestError
from apo.data.prompts import PromptConditions, UserPrompts
from apo.data.stream import StepBatches
from apo.interfaces import Condition
from apo.parts import Setting
from apo.world.prompts import WorldPrompts
from tests.data.clips import SIZES, FakePolicy, Spec, write_jsonl

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manifest(tmp_path) -> Path:
    rows = []
    for i in range(5):
        Image.new("RGB", (48, 32), (40 * i, 0, 9)).save(tmp_path / f"{i}.png")
        rows.append({"prompt": f"a thing number {i}", "image": f"{i}.png"} | ({"domain": "human"} if i == 2 else {}))
    return write_jsonl(tmp_path / "prompts.jsonl", rows)


class NoEncoders(FakePolicy):
    """What is left once the encoders have been unloaded."""

    def encode_condition(self, prompt, frame):
        raise AssertionError("an encoder was needed")


def test_conditions_are_encoded_once_and_equal_the_policys(tmp_path, manifest):
    policy = FakePolicy(embeds=True)
    UserPrompts(str(manifest), str(tmp_path / "cache")).prepare(policy)
    again = NoEncoders(embeds=True)
    split = UserPrompts(str(manifest), str(tmp_path / "cache")).prepare(again)
    assert len(split.train) == 5 and len(split.validation) == 0 and policy.encoded == 0
    cond = split.train.collate([split.train[2], split.train[3]])
    assert isinstance(cond, Condition) and cond.prompt == ["a thing number 2", "a thing number 3"]
    assert cond.domain == ["human", ""] and cond.frame.shape == (2, 3, 16, 24)
    fresh = policy.encode_condition(cond.prompt, cond.frame)
    for name in ("text", "image", "image_embeds"):
        assert_close(getattr(cond, name), getattr(fresh, name))


def test_bad_rows_are_reported_at_once(tmp_path, manifest):
    good = {"prompt": "p", "image": "0.png"}
    bad = [good | {"image": "none.png"}, {"prompt": "p"}, good | {"image": "prompts.jsonl"}, good | {"video": "a.mp4"}]
    path = write_jsonl(tmp_path / "bad.jsonl", [good, *bad])
    with pytest.raises(ManifestError, match="4 bad rows") as raised:
        UserPrompts(str(path), str(tmp_path / "cache")).check(Setting(Spec()))
    said = [problem.message for problem in raised.value.problems]
    assert "none.png: no such file" in said[0] and said[1] == "image is missing: add it or drop the row"
    assert "not a readable image" in said[2] and "unknown column 'video'" in said[3]


def test_held_out_conditions_come_of_any_table_and_any_columns(tmp_path, manifest):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    (tmp_path / "metadata.csv").write_text(
        "text,file_name\n" + "".join(f"{row['prompt']},{row['image']}\n" for row in rows)
    )
    plain = PromptConditions(str(manifest), 3, OmegaConf.create(SIZES))  # as YAML says it: `fit` may be left out
    mapped = PromptConditions(str(tmp_path), 3, Spec(), {"prompt": "text", "image": "file_name"})
    mapped.check(Setting(Spec()))
    assert mapped.identity == plain.identity and mapped.batch(1, 3)[0] == plain.batch(1, 3)[0]


def test_ranks_see_different_conditions_that_depend_on_the_step_alone(tmp_path, manifest):
    split = UserPrompts(str(manifest), str(tmp_path / "cache")).prepare(FakePolicy())
    one = StepBatches(split.train, 4, 6, 1, order=split.order)
    two = [StepBatches(split.train, 2, 6, 1, rank, 2, split.order) for rank in range(2)]
    for step in (3, 0, 5):
        halves = [ranks[step].prompt for ranks in two]
        assert halves[0] + halves[1] == one[step].prompt


def test_the_worlds_conditions_never_end_nor_repeat():
    data = WorldPrompts("train", seed=0)
    split = data.prepare(FakePolicy(Spec(64, 64, 9)))
    steps = StepBatches(split.train, 3, 10**6, 7, 1, 2, split.order)
    assert [steps.indices(step) for step in (0, 1, 999_999)] == [
        [3, 4, 5],
        [9, 10, 11],
        [5_999_997, 5_999_998, 5_999_999],
    ]
    cond = steps[1]
    prompts, frames = data.conditions.batch(9, 12)
    assert cond.prompt == prompts and torch.equal(cond.frame, frames)
    assert all((domain == "scene") == ("camera" in prompt) for domain, prompt in zip(cond.domain, cond.prompt))
    other = WorldPrompts("train", seed=1).conditions.batch(9, 12)
    assert not torch.equal(other[1], frames)
    with pytest.raises(ValueError, match="data=world_prompts needs videos of the world.*data=prompts data.path"):
        data.check(Setting(Spec()))


def test_config_instantiates(tmp_path, manifest):
    shipped = OmegaConf.load(ROOT / "conf" / "data" / "prompts.yaml")
    config = OmegaConf.merge(shipped, {"path": str(manifest), "cache_dir": str(tmp_path / "c")})
    assert len(instantiate(config).prepare(FakePolicy()).train) == 5
