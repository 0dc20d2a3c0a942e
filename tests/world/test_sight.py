"""The base of the world's rankers: what it is shown and what it is asked to see."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file

from apo.config.compose import compose
from apo.rankers.vlm import TrainableVLM
from apo.world import flaws
from apo.world.build.sight import SEEN, Pairs, Sight, build, measurements
from apo.world.build.vlm import build_vlm
from apo.world.candidates import clip_of
from apo.world.grammar import describe
from apo.world.render import render

ROOT = Path(__file__).parents[2]
SEVERITY, SIMILARITY, RIGHT = SEEN.index("severity"), SEEN.index("similarity"), SEEN.index("right")


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    folder = tmp_path_factory.mktemp("init")
    build_vlm(folder, vision={"depth": 2, "deepstack_visual_indexes": [1]}, text={"num_hidden_layers": 2})
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    def make(share: float):
        overrides = [
            f"data.cache_dir={cache}",
            "data.batch_size=4",
            "data.candidates=2",
            f"data.generated_share={share}",
        ]
        return instantiate(compose("train", ["data=world_rankings", "model.num_inference_steps=2", *overrides]).data)

    cache = tmp_path_factory.mktemp("cache")
    return make


def test_measurements_show_a_flaw_where_it_is():
    clip = clip_of("train", "digit", 0, 3)
    videos = torch.stack([render(clip), flaws.morph(clip, np.random.default_rng(0))])
    clean, flawed = measurements(videos, [describe(clip.meaning)] * 2, render(clip)[:1].expand(2, -1, -1, -1))
    assert clean[:, SEVERITY].max() == 0 and clean[:, SIMILARITY].min() > 0.9
    assert flawed[0, SEVERITY] == 0 and flawed[-1, SEVERITY] > 0.5 and flawed[-1, SIMILARITY] < 0.85


def test_a_frame_is_read_after_it_was_seen_and_by_no_other_video(init):
    model = Sight(TrainableVLM(str(init), "float32", 10, 8, None, None, 0, False, autocast="bfloat16"))
    first, second = torch.randint(0, 256, (2, 1, 10, 3, 64, 64), dtype=torch.uint8)
    changed = first.clone()
    changed[:, 6:] = 255 - changed[:, 6:]
    with torch.no_grad():
        _, seen = model(first, second, "digit")
        _, other = model(changed, second, "digit")
    same = (seen == other).all(-1)[0]
    assert same[0, :6].all() and not same[0, 6:].any()  # causal: what was there before frame 6 is read as before
    assert not same[1].any()  # the second video is read after the first


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pairs_depend_on_the_step_alone(source, share):
    pairs = Pairs(source(share), {"digit": 4, "scene": 4}, frames=10)
    once, again, later = pairs(5), pairs(5), pairs(6)
    assert torch.equal(once[0], again[0]) and torch.equal(once[5], again[5]) and once[2] == again[2]
    assert not torch.equal(once[0], later[0])
    assert once[5].shape == (16, 2, 10, len(SEEN))


def test_the_label_agrees_with_what_is_seen(source):
    _, _, _, label, sure, seen = Pairs(source(0.0), {}, frames=9)(0)
    worse = seen[:, 0, :, SEVERITY].mean(1) - seen[:, 1, :, SEVERITY].mean(1)
    decided = label <= 2
    assert sure[decided].all() and decided.any() and not decided.all()
    assert torch.equal(worse[decided] < 0, label[decided] == 1)
    assert (worse[~decided].abs() <= 0.05 + 1e-6).all()


def test_an_interrupted_base_is_the_uninterrupted_one(init, source, tmp_path, monkeypatch):
    monkeypatch.setattr("apo.world.build.sight.BATCH", 2)
    monkeypatch.setattr("apo.world.build.sight.SAVE_EVERY", 1)
    build(tmp_path / "whole", init, source(0.0), {}, 10, steps=2)
    call = Pairs.__call__

    def stop(pairs, step):
        if step == 1:
            raise KeyboardInterrupt
        return call(pairs, step)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Pairs, "__call__", stop)
        build(tmp_path / "parts", init, source(0.0), {}, 10, steps=2)
    build(tmp_path / "parts", init, source(0.0), {}, 10, steps=2)
    assert (
        len((tmp_path / "parts" / "base.log").read_text().split("# base: steps 1..2")) == 2
    )  # went on where it was stopped
    whole, parts = (load_file(tmp_path / name / "base" / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
