"""Ranking with a tiny Qwen3-VL through transformers' own model and processor."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from apo.parts import Setting
from apo.rankers.answer import LABELS, swapped
from apo.rankers.vlm import RankingVLM
from tests.rankers.tiny import WORLD, ranker, world_pairs


def test_the_folder_is_one_that_transformers_loads(base):
    model, processor = Qwen3VLForConditionalGeneration.from_pretrained(base), AutoProcessor.from_pretrained(base)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration" and type(processor).__name__ == "Qwen3VLProcessor"
    assert processor.tokenizer.decode(RankingVLM(str(base), "float32", 4, 8).answers) == "".join(LABELS)


def test_both_videos_are_named_and_have_the_same_frames(base):
    vlm = RankingVLM(str(base), "float32", frames=6, fps=8)
    first, second, _ = world_pairs(1)
    inputs = vlm.inputs(first, second, ["digit"])
    text = vlm.processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.index("Video 1: ") < text.index("Video 2: ") < text.index("Answer with one digit")
    assert inputs["video_grid_thw"].tolist() == [[3, 8, 8]] * 2  # two frames, 8 x 8 patches of 8 pixels
    assert text.count("<|video_pad|>") == 2 * 3 * 16 and text.endswith("assistant\n")
    assert "<0.1 seconds>" in text and "<0.9 seconds>" in text  # frames 0, 2 and 6, 8 of nine at 8 a second


def test_exchanging_the_candidates_exchanges_the_verdict(base):
    first, second, cond = world_pairs(8)
    judge = ranker(base)
    given, exchanged = judge(first, second, cond), judge(second, first, cond)
    sure = given.confidence > 0.5005  # random weights: others are ties but for rounding
    assert sure.sum() >= 2 and torch.equal(exchanged.label[sure], swapped(given.label)[sure])
    assert_close(exchanged.confidence, given.confidence, rtol=1e-4, atol=1e-5)
    assert given.confidence.min() >= 0.5 and given.confidence.max() <= 1


def test_position_bias_is_there_in_one_order_and_gone_by_averaging(base):
    first, second, cond = world_pairs(8)
    biased = ranker(base, swap_averaging=False)
    given, exchanged = biased(first, second, cond).label, biased(second, first, cond).label
    assert (given != swapped(exchanged)).any()
    domains = ranker(base).domains(cond)
    one, other = (ranker(base).probabilities(*videos, domains) for videos in ((first, second), (second, first)))
    assert_close(one, other[:, [1, 0, 3, 2]], rtol=1e-4, atol=1e-5)


def test_prompts_of_all_lengths_share_a_batch(base):
    first, second, _ = world_pairs(4)
    domains = ["digit", "human", "scene", "non_human"]
    together = ranker(base).probabilities(first, second, domains)
    assert_close(together, ranker(base, batch_size=1).probabilities(first, second, domains), rtol=1e-3, atol=1e-5)
    assert_close(together.sum(1), torch.ones(4))


def test_the_domains_prompt_is_what_is_asked(base):
    first, second, _ = world_pairs(1)
    asked = [ranker(base).probabilities(first, second, [domain]) for domain in ("digit", "scene")]
    assert not torch.allclose(*asked, atol=1e-4)


def test_rankers_are_cheap_to_make_and_say_what_is_missing(base, tmp_path):
    missing = ranker(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="ranker.path=.*nowhere: no config.json there; give a model folder"):
        missing.check(Setting(WORLD))
    with pytest.raises(ValueError, match="ranker.adapter=.*nowhere: no adapter_config.json there"):
        ranker(base, tmp_path / "nowhere").check(Setting(WORLD))
    with pytest.raises(
        ValueError, match="ranker.path=Qwen/Qwen3-VL-8B-Instruct: it is not on this disk, and the hub does not give it"
    ):
        ranker("Qwen/Qwen3-VL-8B-Instruct").check(Setting(WORLD))
    with pytest.raises(ValueError, match="ranker.device=tpu9: torch has no such device here"):
        ranker(base, device="tpu9").check(Setting(WORLD))
