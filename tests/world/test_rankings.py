"""`data=world_rankings`: what the annotator said of rendered and generated videos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from safetensors import safe_open

from apo.config.compose import compose
from apo.world.candidates import STREAMS, clip_of, slowed
from apo.world.oracle import measure
from apo.world.rankings import GENERATED, RENDERED, WorldRankings
from apo.world.render import SPLITS, render

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def build(**changes) -> WorldRankings:
        settings = {"count": 60, "validation_count": 12, "batch_size": 8, "candidates": 2} | changes
        overrides = [f"data.{key}={'null' if value is None else value}" for key, value in settings.items()]
        cfg = compose(
            "train", ["data=world_rankings", "model.num_inference_steps=3", f"data.cache_dir={cache}", *overrides]
        )
        return instantiate(cfg.data)

    return build


@pytest.fixture(scope="module")
def split(make):
    return make().prepare(None)


def test_shares_of_sources_and_domains_are_as_set(split):
    count = {
        key: sum((p.source, p.domain) == key for p, _ in split.train.rows)
        for key in [(s, d) for s in (GENERATED, RENDERED) for d in ("digit", "scene")]
    }
    assert list(count.values()) == [22, 8, 22, 8]  # halves; a quarter of each are scenes, rounded
    assert len(split.validation) == sum(round(12 * share) for share in (0.375, 0.375, 0.125, 0.125))


def test_labels_are_the_oracles(split):
    data = split.train
    batch, cond = data.collate([data[i] for i in range(60)]), data.condition(list(range(60)))
    one, two = (measure(videos, cond.prompt, cond.frame) for videos in (batch.first, batch.second))
    for i, label in enumerate(batch.label.tolist()):
        worse, faster = one.severity[i] - two.severity[i], one.speed[i] - two.speed[i]
        if label <= 2:
            assert (worse < -0.05) if label == 1 else (worse > 0.05)
        else:
            assert abs(worse) <= 0.05 and ((faster >= 0.25) if label == 3 else (faster <= -0.25))
    assert {1, 2, 3, 4} == set(batch.label.tolist())


def test_splits_share_no_glyph():
    for split in STREAMS:
        low, high = SPLITS[split]
        assert all(low <= clip_of(split, "digit", 300, i).glyph < high for i in range(50))


def test_slowed_videos_can_be_left_out(make, split):
    assert any(row["slow"] for _, row in split.train.rows)
    without = make(slow_motion=False, generated_share=0.0).prepare(None).train
    assert len(without) == 60 and not any(row["slow"] for _, row in without.rows)


def test_slowed_videos_have_the_frames_of_the_original_and_less_motion():
    clip = clip_of("train", "digit", 0, 0)
    video = render(clip)
    for seed in range(5):
        slow = slowed(video, np.random.default_rng(seed))
        assert torch.equal(slow[0], video[0])
        assert all(any(torch.equal(frame, given) for given in video) for frame in slow)
        assert slow.float().diff(dim=0).abs().sum() < 0.6 * video.float().diff(dim=0).abs().sum()


def test_the_cache_is_used_and_an_interrupted_build_goes_on_to_the_same_rows(make, split, monkeypatch):
    again = make()
    monkeypatch.setattr(again, "label", lambda *_: pytest.fail("the cache was not used"))
    assert again.prepare(None).train.rows == split.train.rows
    place = split.train.rows[0][0]
    source = make()
    last = sorted(source.folder(place).glob("block_*.json"))[-1]
    last.unlink()
    videos = sorted(source.cache_dir.glob("world_rankings-videos-*/train-digit-*.safetensors"))[-1]
    with safe_open(videos, "pt") as file:
        before = file.get_tensor("videos")
    videos.unlink()
    assert source.prepare(None).train.rows == split.train.rows
    with safe_open(videos, "pt") as file:
        assert torch.equal(file.get_tensor("videos"), before)


def test_damaged_videos_and_labels_are_made_anew_and_said(make, split, capsys):
    source = make()
    place, row = next(item for item in split.train.rows if item[0].source == GENERATED)
    before = source.videos(place, row["index"]).clone()
    name = f"{place.split}-{place.domain}-{row['index'] // 8:05d}.safetensors"
    videos = source.cache_dir / f"world_rankings-videos-{source.video_key}" / name
    labels = sorted(source.folder(place).glob("block_*.json"))[0]
    for path in (videos, labels):
        damaged = bytearray(path.read_bytes())
        damaged[-7] ^= 1
        path.write_bytes(damaged)
    again = make().prepare(None).train
    assert again.rows == split.train.rows and torch.equal(again.source.videos(place, row["index"]), before)
    said = capsys.readouterr().out
    assert f"{videos}: its bytes are not those that were written; it is generated anew" in said
    assert f"{labels}: its bytes are not those that were written; it is made anew" in said


def test_one_domain_can_be_chosen_and_another_is_refused(make):
    assert set(make(domain="scene", generated_share=0.0, count=10).prepare(None).train.domains) == {"scene"}
    with pytest.raises(Exception, match="data.domain=cars: the world has digit, scene"):
        make(domain="cars")


def test_a_slowed_video_has_the_quality_of_its_original_and_loses_to_it(split):
    rows = [row for _, row in split.train.rows if row["same_frames"]]
    assert rows
    for row in rows:
        assert row["severity"] == [0, 0] and row["label"] == (3 if row["first"] == row["original"] else 4)
        assert (row["speed"][0] > row["speed"][1]) == (row["label"] == 3)


def test_an_annotator_who_errs_is_never_as_sure_as_asked(make):
    with pytest.raises(
        Exception, match="data.min_confidence=1.0: an annotator with error_rate=0.1 is never surer than 0.9"
    ):
        instantiate(compose("train", ["data=world_rankings", "data.annotator.error_rate=0.1"]).data)
