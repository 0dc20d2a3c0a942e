"""The rankers that ship with the repository agree with the oracle on videos of glyphs that they have never seen."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from apo.config.compose import compose
from apo.parts import Setting
from apo.rankers.answer import swapped

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "apo" / "world" / "checkpoints" / "ranker"


def test_winners_are_mostly_the_oracles_and_do_not_hang_on_the_order(tmp_path):
    overrides = ["ranker=by_domain", "data=world_rankings", "data.generated_share=0", f"data.cache_dir={tmp_path}"]
    cfg = compose("train", overrides)
    data, ranker = instantiate(cfg.data).dataset("test", 48), instantiate(cfg.ranker)
    ranker.check(Setting(instantiate(cfg.model).spec))
    places = list(range(48))
    ranking, cond = data.collate([data[i] for i in places]), data.condition(places)
    there, back = ranker(ranking.first, ranking.second, cond), ranker(ranking.second, ranking.first, cond)
    right = there.first_wins == (ranking.label % 2 == 1)
    assert right.float().mean() > 0.75  # a coin: 0.5 ± 0.07
    assert torch.equal(there.label, swapped(back.label))


@pytest.mark.parametrize("name", ["by_domain", "qwen3_vl"])
def test_they_refuse_to_judge_other_videos_than_the_worlds(name):
    cfg = compose(
        "train",
        ["stage=online", "data=prompts", "data.path=prompts.jsonl", f"ranker={name}", "model=wan22_i2v_a14b"],
    )
    refused = (
        "ranker.path=apo/world/checkpoints/ranker/base needs videos of the world.*121 of 720 x 960.*ranker=qwen3_vl_8b"
    )
    with pytest.raises(ValueError, match=refused):
        instantiate(cfg.module.pairs.ranker).check(Setting(instantiate(cfg.model).spec))


def test_they_are_small_and_know_where_they_are():
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) < 20e6
    for domain in ("digit", "scene"):
        text = (CHECKPOINTS / domain / "adapter_config.json").read_text()
        assert '"apo/world/checkpoints/ranker/base"' in text
