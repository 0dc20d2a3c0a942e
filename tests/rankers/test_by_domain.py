"""Two adapters over one base, and each pair to its domain's ranker."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close
from transformers import Qwen3VLForConditionalGeneration

from apo.data.domains import DomainRule
from apo.parts import Setting
from apo.rankers.by_domain import ByDomainRanker
from apo.rankers.vlm import TRAINED, RankingVLM, TrainableVLM, shared
from tests.rankers.tiny import LORA, RULE, WORLD, ranker, tiny_adapter, tiny_base, world_pairs


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {
        domain: tiny_adapter(base, folder / domain, seed) for seed, domain in enumerate(("digit", "scene"), start=1)
    }


@pytest.fixture
def by_domain(base, adapters):
    return ByDomainRanker(RULE, {domain: ranker(base, folder) for domain, folder in adapters.items()})


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_adapters_round_trip(base, adapters):
    first, second, cond = world_pairs(2)
    saved = TrainableVLM(
        str(base), "float32", 4, 8.0, LORA, str(adapters["digit"]), 7, gradient_checkpointing=False
    ).eval()
    loaded = RankingVLM(str(base), "float32", 4, 8.0)
    with torch.no_grad():
        before = loaded(first, second, ["digit"] * 2)
        name = loaded.load_adapter(str(adapters["digit"]))
        with loaded.using(name):
            assert_close(loaded(first, second, ["digit"] * 2), saved(first, second, ["digit"] * 2))
            assert not torch.allclose(loaded(first, second, ["digit"] * 2), before)
        with loaded.using(None):
            assert torch.equal(loaded(first, second, ["digit"] * 2), before)
        with saved.using(TRAINED):
            assert not torch.allclose(saved(first, second, ["digit"] * 2), before)


def test_plain_peft_reads_our_adapters(base, adapters):
    first, second, _ = world_pairs(2)
    ours = RankingVLM(str(base), "float32", 4, 8.0)
    theirs = PeftModel.from_pretrained(Qwen3VLForConditionalGeneration.from_pretrained(base), adapters["scene"]).eval()
    with torch.no_grad(), ours.using(ours.load_adapter(str(adapters["scene"]))):
        inputs = ours.inputs(first, second, ["scene"] * 2)
        assert_close(ours(first, second, ["scene"] * 2), theirs(**inputs, logits_to_keep=1).logits[:, -1])


def test_two_adapters_share_one_base(base, by_domain):
    first, second, cond = world_pairs(2)
    by_domain(first, second, cond)
    vlm = shared(str(base), "float32", 4, by_domain.rankers["digit"].fps, "cpu", None)
    alone, one = (
        RankingVLM(str(base), "float32", 4, 8.0),
        TrainableVLM(str(base), "float32", 4, 8.0, LORA, None, 0, False),
    )
    assert len(vlm.adapters) == 2
    assert count(vlm) == count(alone) + 2 * (count(one) - count(alone))


def test_each_condition_is_judged_by_its_domains_ranker(base, adapters, by_domain):
    first, second, cond = world_pairs(6)  # digits and scenes in turn
    found = by_domain(first, second, cond)
    for start, domain in enumerate(("digit", "scene")):
        places = list(range(start, 6, 2))
        part = replace(cond, prompt=[cond.prompt[i] for i in places], frame=cond.frame[places])
        alone = ranker(base, adapters[domain])(first[places], second[places], part)
        assert torch.equal(found.label[places], alone.label)
        assert_close(found.confidence[places], alone.confidence, rtol=1e-4, atol=1e-5)
    said = by_domain(first, second, replace(cond, domain=["scene"] * 6))
    assert not torch.allclose(said.confidence[::2], found.confidence[::2], atol=1e-4)


def test_an_unknown_domain_is_an_error_that_names_the_known_ones(by_domain):
    first, second, cond = world_pairs(2)
    with pytest.raises(ValueError, match="domain='cars' has no ranker; there are digit, scene"):
        by_domain(first, second, replace(cond, domain=["digit", "cars"]))
    with pytest.raises(ValueError, match="domain='other' has no ranker"):
        ByDomainRanker(DomainRule({}, "other", None), by_domain.rankers).check(Setting(WORLD))
    by_domain.check(Setting(WORLD))


def test_an_adapter_of_another_base_is_refused(base, tmp_path):
    wide = tiny_adapter(base, tmp_path / "adapter", 3)
    other = tmp_path / "other"
    tiny_base(other)
    vlm = TrainableVLM(str(other), "float32", 4, 8.0, LORA | {"rank": 4}, None, 0, gradient_checkpointing=False)
    with pytest.raises(ValueError, match="does not fit .* use the base, rank and targets it was trained with"):
        vlm.read_adapter(str(wide), TRAINED)
