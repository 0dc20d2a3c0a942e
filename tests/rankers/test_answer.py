"""What a ranking model is asked and what its answer means."""

import pytest
import torch
from torch.testing import assert_close

from apo.data.domains import PROMPTS, DomainRule, prompt_text
from apo.errors import UserError
from apo.interfaces import Condition, Verdict
from apo.rankers.answer import SWAP, order_averaged, parse_label, require_verdict, standard_frames, swapped, verdict


def probabilities(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    "text, label", [("1", 1), (" 2", 2), ("3.", 3), ("**4**: Video 2 moves more", 4), ("1: ...", 1)]
)
def test_a_label_is_read_from_an_answer(text, label):
    assert parse_label(text) == label


@pytest.mark.parametrize("text", ["5", "0", "12", "1.5", "Video 1", "", "first"])
def test_another_answer_is_an_error_that_says_what_was_got(text):
    with pytest.raises(ValueError, match=f"answered {text!r} where one of 1, 2, 3, 4 was asked for"):
        parse_label(text)


def test_the_winner_is_the_side_with_more_probability_and_the_label_its_likelier_reason():
    found = verdict(probabilities([0.4, 0.3, 0.0, 0.3], [0.1, 0.1, 0.7, 0.1], [0.0, 0.9, 0.0, 0.1]))
    assert found.label.tolist() == [
        2,
        3,
        2,
    ]  # 0.6 of the first row is for the second video, though label 1 is likeliest
    assert_close(found.confidence, torch.tensor([0.6, 0.8, 1.0]))


def test_what_is_no_verdict_is_an_error_that_says_what_was_got():
    sure = torch.ones(2)
    good = Verdict(torch.tensor([1, 4]), sure)
    assert torch.equal(require_verdict(good, 2).label, good.label)
    for label in (0, 5):
        with pytest.raises(ValueError, match=f"gave label {label} where one of 1, 2, 3, 4"):
            require_verdict(Verdict(torch.tensor([1, label]), sure), 2)
    for value in (2.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="where numbers in .0, 1. were asked for"):
            require_verdict(Verdict(good.label, torch.tensor([1.0, value])), 2)
    with pytest.raises(ValueError, match="judged .2,. pairs .* where there are 3"):
        require_verdict(good, 3)
    with pytest.raises(ValueError, match="probabilities that are no numbers"):
        verdict(probabilities([float("nan")] * 4))


def test_exchanging_the_videos_exchanges_labels_and_keeps_confidence():
    drawn = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    found, exchanged = verdict(drawn), verdict(drawn[:, list(SWAP)])
    assert torch.equal(exchanged.label, swapped(found.label)) and torch.equal(
        swapped(swapped(found.label)), found.label
    )
    assert_close(exchanged.confidence, found.confidence)
    assert torch.equal(exchanged.first_wins, ~found.first_wins)


def test_averaging_orders_cancels_a_pure_position_bias():
    always_first = probabilities([0.7, 0.1, 0.1, 0.1])
    averaged = order_averaged(always_first, always_first)
    assert_close(averaged, probabilities([0.4, 0.4, 0.1, 0.1]))


@pytest.mark.parametrize("frames, count", [(9, 40), (9, 10), (121, 40), (40, 40), (1, 4)])
def test_frames_are_spread_from_the_first_to_the_last(frames, count):
    shown = standard_frames(torch.arange(frames).view(1, frames, 1, 1, 1), count).flatten()
    assert len(shown) == count and shown[0] == 0 and shown[-1] == frames - 1
    steps = shown.diff()
    assert steps.max() - steps.min() <= 1  # uniform, up to rounding


def test_every_domain_has_both_criteria_and_the_four_options():
    assert {"human", "non_human", "digit", "scene"} <= {path.stem for path in PROMPTS.glob("*.txt")}
    for path in PROMPTS.glob("*.txt"):
        text = prompt_text(path.stem)
        assert [line[0] for line in text.splitlines()[-4:]] == ["1", "2", "3", "4"]
        assert "distort" in text and "similar" in text


def test_a_domain_without_a_prompt_is_an_error_and_a_folder_of_ones_own_has_prompts(tmp_path):
    with pytest.raises(ValueError, match="domain='cars'.*digit, human, non_human, scene"):
        prompt_text("cars")
    (tmp_path / "cars.txt").write_text("Which car?\n")
    assert prompt_text("cars", str(tmp_path)) == DomainRule({}, "cars", str(tmp_path)).text("cars") == "Which car?"
    with pytest.raises(UserError, match="domain='digit'.*which has cars; use one of these"):
        prompt_text("digit", str(tmp_path))
    with pytest.raises(UserError, match="domains.prompts=nowhere: there is no such folder"):
        prompt_text("digit", "nowhere")


def test_a_domain_is_never_a_path(tmp_path):
    secret, prompts = tmp_path / "secret.txt", tmp_path / "prompts"
    secret.write_text("secret")
    prompts.mkdir()
    (prompts / "link.txt").symlink_to(secret)
    (prompts / "folder.txt").mkdir()
    for domain in (
        str(secret),
        str(secret.with_suffix("")),
        "../secret",
        "../secret.txt",
        "link",
        "folder",
        "digit.txt",
        "",
        ".",
        "\0",
    ):
        for folder in (None, str(prompts)):
            with pytest.raises(UserError, match="there is no ranking prompt for it"):
                prompt_text(domain, folder)


def test_a_domain_comes_from_the_data_then_from_the_rules_then_from_the_default():
    rule = DomainRule({"city|sea": "non_human", "^a": "human"}, "other", None)
    prompts = ["a man", "a city", "the sea", "rain"]
    cond = Condition(prompts, torch.empty(0), torch.empty(0), domain=[None, None, "mine", ""])
    assert rule(cond) == ["human", "non_human", "mine", "other"]
    assert rule(Condition(prompts, torch.empty(0), torch.empty(0))) == ["human", "non_human", "non_human", "other"]
