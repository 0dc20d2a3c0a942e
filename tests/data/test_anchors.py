"""`data=anchors`: the user's labelled videos, and the mix in which they are drawn."""

from collections import Counter
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from apo.data.anchors import Mixed, UserAnchors
from apo.data.manifest import ManifestError
from apo.data.stream import StepBatches
from apo.parts import Setting
from tests.data.clips import FakePolicy, Spec, counted, numbers, write_jsonl

ROOT = Path(__file__).parents[2]


@pytest.fixture
def records(tmp_path) -> list[dict]:
    """Three positive anchors and five negative ones; the video of anchor i begins with counted frame i."""
    for i in range(8):
        counted(tmp_path / f"{i}.mp4", 6, start=i)
    return [
        {"prompt": f"anchor {i}", "video": f"{i}.mp4", "label": "positive" if i < 3 else "negative"} for i in range(8)
    ]


@pytest.fixture
def manifest(tmp_path, records) -> Path:
    return write_jsonl(tmp_path / "anchors.jsonl", records)


def user(tmp_path, manifest, share: float = 0.6) -> UserAnchors:
    return UserAnchors(str(manifest), str(tmp_path / "cache"), share)


def test_an_anchor_has_its_latents_its_label_and_its_condition(tmp_path, manifest):
    policy = FakePolicy()
    data = user(tmp_path, manifest).prepare(policy).train
    assert policy.encoded == 8
    batch = data.collate([data[1], data[6]])
    assert batch.positive.tolist() == [True, False] and batch.cond.prompt == ["anchor 1", "anchor 6"]
    assert numbers(batch.video[:, :, 0].movedim(1, 0).float().movedim(0, 1) * 255) == [1, 6]
    assert numbers(batch.cond.frame) == [1, 6]


def test_a_second_preparation_encodes_nothing_and_a_new_label_is_heard(tmp_path, records, manifest):
    user(tmp_path, manifest).prepare(FakePolicy())
    policy = FakePolicy()
    before = user(tmp_path, manifest).prepare(policy).train.files
    records[0]["label"] = "negative"
    write_jsonl(manifest, records)
    data = user(tmp_path, manifest).prepare(policy).train
    assert policy.encoded == 1 and data.files[1:] == before[1:]
    assert data.places["negative"] == [0, 3, 4, 5, 6, 7] and not data.collate([data[0]]).positive.item()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_every_stretch_has_the_share_of_positives_and_labels_have_epochs(tmp_path, manifest, share):
    split = user(tmp_path, manifest, share).prepare(FakePolicy())
    drawn = [split.order(split.train, 5, position) for position in range(300)]
    for length in (10, 77, 300):
        assert abs(sum(i < 3 for i in drawn[:length]) - share * length) < 1
    for label, size in (("positive", 3), ("negative", 5)):
        own = [i for i in drawn if (i < 3) == (label == "positive")]
        for epoch in range(len(own) // size):
            assert len(set(own[epoch * size : (epoch + 1) * size])) == size
        assert len({tuple(own[k : k + size]) for k in range(0, 60, size)}) > 1 or not own
    assert drawn != [split.order(split.train, 6, position) for position in range(300)]


def test_two_ranks_see_what_one_with_twice_the_batch_sees(tmp_path, manifest):
    split = user(tmp_path, manifest).prepare(FakePolicy())
    one = StepBatches(split.train, 6, 4, 1, order=split.order)
    two = [StepBatches(split.train, 3, 4, 1, rank, 2, split.order) for rank in range(2)]
    counts = Counter()
    for step in (2, 0, 1, 3):
        halves = [rank[step] for rank in two]
        assert halves[0].cond.prompt + halves[1].cond.prompt == one[step].cond.prompt
        counts.update(one[step].positive.tolist())
    assert counts[True] == 14  # 0.6 of 24, to within one


def test_mistakes_are_named(tmp_path, records, manifest):
    write_jsonl(manifest, [records[0] | {"label": "good"}, records[1] | {"video": "none.mp4"}, records[2]])
    with pytest.raises(
        ManifestError, match="2 bad rows\n  line 1: label is 'good': write one of 'positive', 'negative'"
    ):
        user(tmp_path, manifest).check(Setting(Spec()))
    write_jsonl(manifest, records[:3])
    with pytest.raises(
        ValueError, match="none of the 3 anchors is labelled 'negative': add some, or set data.positive_share=1"
    ):
        user(tmp_path, manifest).check(Setting(Spec()))
    user(tmp_path, manifest, 1.0).check(Setting(Spec()))
    with pytest.raises(ValueError, match="data.positive_share=1.5"):
        Mixed(1.5)


def test_config_instantiates(tmp_path, manifest):
    shipped = OmegaConf.load(ROOT / "conf" / "data" / "anchors.yaml")
    config = OmegaConf.merge(shipped, {"path": str(manifest), "cache_dir": str(tmp_path / "c")})
    assert len(instantiate(config).prepare(FakePolicy()).train) == 8
