"""What parts hand to each other."""

import pytest
import torch

from apo.interfaces import Condition, Loss, Source


@pytest.fixture
def cond():
    text = torch.arange(3.0)[:, None, None]
    return Condition(["a", "b", "c"], text, -text, domain=["human", "scene", "digit"])


def test_conditions_are_picked_in_the_order_asked_for_also_twice(cond):
    picked = cond[[2, 0, 2]]
    assert picked.prompt == ["c", "a", "c"] and picked.domain == ["digit", "human", "digit"]
    assert picked.text.flatten().tolist() == [2, 0, 2] and picked.image.flatten().tolist() == [-2, 0, -2]
    assert picked.frame is None and picked.image_embeds is None
    assert cond[range(1, 1)].prompt == []


def test_conditions_in_one_batch_keep_their_order(cond):
    both = Condition.cat(cond[[1]], cond)
    assert both.prompt == ["b", "a", "b", "c"] and both.text.flatten().tolist() == [1, 0, 1, 2]
    assert both.domain == ["scene", *cond.domain] and both.image_embeds is None


def test_the_parts_of_a_batch_are_the_batch(cond):
    again = Condition.cat(*(cond[[i]] for i in range(3)))
    assert again.prompt == cond.prompt and again.domain == cond.domain and torch.equal(again.text, cond.text)


def test_a_condition_moves_with_its_tensors_alone(cond):
    moved = cond.to("meta")
    assert moved.text.is_meta and moved.image.is_meta and moved.prompt == cond.prompt and moved.frame is None
    assert not cond.text.is_meta


def test_what_remembers_nothing_says_so():
    class Plain(Source): ...

    class Bare(Loss): ...

    assert Plain().state() is None and Plain().load(None) is None
    assert Bare().held_out(None, None, None, None) == Bare().watched(None) == {}
