"""The training loop, on a real policy with random weights."""

import math

import pytest
import torch
from torch.testing import assert_close

from apo.interfaces import Row
from apo.losses import preference
from apo.losses.preference import forwards
from apo.modules.optim import NonFiniteGradient, clipped_norm
from apo.modules.window import Window
from apo.policies.lora import AVERAGE, POLICY
from apo.sources.offline import OfflinePairs
from tests.aligning import fit, module, pair_of, window
from tests.policies.test_wan import make


def test_loss_starts_at_log_2_and_falls_on_a_repeated_pair(request, tmp_path):
    model = module(request)
    rows = fit(model, pair_of(model.policy), 12, tmp_path)
    assert_close(float(rows[0]["train/loss"]), math.log(2), rtol=1e-6, atol=1e-6)
    assert float(rows[0]["train/margin"]) == 0
    assert float(rows[-1]["train/loss"]) < math.log(2) - 0.05 and float(rows[-1]["train/implicit_accuracy"]) > 0.7
    gains = float(rows[-1]["train/chosen_gain"]) - float(rows[-1]["train/rejected_gain"])
    assert_close(gains, float(rows[-1]["train/margin"]), rtol=1e-3, atol=1e-6)


def test_both_experts_learn_and_the_base_does_not(request, tmp_path):
    model = module(request)
    before = {k: v.clone() for k, v in model.policy.named_parameters()}
    fit(model, pair_of(model.policy), 3, tmp_path)
    moved = {k for k, v in model.policy.named_parameters() if not torch.equal(v, before[k])}
    assert all(".policy." in k for k in moved)
    assert any(".transformer." in k for k in moved) and any(".transformer_2." in k for k in moved)


def test_checkpoints_hold_the_trained_part_only(request):
    model = module(request)
    assert set(model.state_dict()) == {k for k, p in model.named_parameters() if p.requires_grad}


def broken_latents(model, pair, _):
    pair.chosen[0, 0, 0, 0, 0] = float("nan")


def broken_condition(model, pair, _):
    pair.cond.text[0, 0, 0] = float("inf")


def broken_weight(model, *_):
    next(iter(model.policy.experts["transformer"].parameters())).data[0] = float("nan")


def broken_reference(model, _, monkeypatch):
    monkeypatch.setattr(
        preference, "forwards", lambda *given: forwards(*given)._replace(ref_chosen=torch.tensor([float("nan")] * 2))
    )


def broken_objective(model, *_):
    model.loss.objective = lambda chosen, *_: chosen * float("inf")


def broken_gradient(model, *_):
    next(p for p in model.policy.parameters() if p.requires_grad).register_hook(
        lambda gradient: gradient * float("nan")
    )


@pytest.mark.parametrize(
    "damage, said",
    [
        (broken_latents, "The pairs' latents are not: "),
        (broken_condition, "The pairs' conditions are not: "),
        (broken_weight, "The weight experts.transformer.* is not: "),
        (broken_reference, "The reference's prediction is not: "),
        (broken_objective, "train/loss is not: "),
        (broken_gradient, "Weights, data and predictions are finite: give another run=NAME with a lower optimizer.lr"),
    ],
)
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step_and_says_what_it_comes_from(
    request, tmp_path, monkeypatch, damage, said
):
    model = module(request)
    pair = pair_of(model.policy)
    damage(model, pair, monkeypatch)
    before = [p.clone() for p in model.policy.parameters() if p.requires_grad]
    with pytest.raises(NonFiniteGradient, match=f"would meet the same gradient again. {said}"):
        fit(model, pair, 2, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, [p for p in model.policy.parameters() if p.requires_grad]))


def test_clipping_returns_the_norm_before_it():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    assert_close(clipped_norm([parameter], 1.0), torch.tensor(6.0))
    assert_close(parameter.grad.norm(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)


def test_noise_belongs_to_the_pair_whatever_the_rank(monkeypatch):
    window, like = Window(None, 2, 0), torch.zeros(4, 3, 2, 2, 2)
    whole = window.noise(like, 3, 2)
    monkeypatch.setattr("apo.modules.window.replica", lambda: 1)
    assert torch.equal(window.noise(like[:2], 3, 2), whole[2:])
    assert not torch.equal(window.noise(like[:2], 3, 1), whole[2:])


def test_the_last_row_of_each_expert_is_marked(request):
    policy = make(request, "wan22")
    rows = window(policy, pair_of(policy))
    high = [policy.expert(row.t) is policy.experts["transformer"] for row in rows]
    assert [row.last for row in rows] == [is_high not in high[i + 1 :] for i, is_high in enumerate(high)]
    assert len(set(high)) == 2 and [row.index for row in rows] == list(range(5))


def test_without_noise_levels_a_window_is_one_row():
    assert list(Window(None, 2, 0).rows(None, None, 7)) == [Row(7)]


def test_the_reference_becomes_the_policy_every_n_steps(request, tmp_path):
    model = module(request, reference_update_every_n_steps=3)
    pair = pair_of(model.policy)
    rows = fit(model, pair, 8, tmp_path)
    losses = [float(row["train/loss"]) for row in rows]
    for step, loss in enumerate(losses):
        assert (abs(loss - math.log(2)) < 1e-6) == (step % 3 == 0), losses
    kept = model.state_dict()
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert trained < kept.keys() and all(".reference." in key for key in kept.keys() - trained)
    assert len(kept) == 2 * len(trained)
    # what a resumed run starts from
    fresh = module(request, reference_update_every_n_steps=3)
    fresh.load_state_dict(kept, strict=False)
    noise = torch.randn(pair.chosen.shape, generator=torch.Generator().manual_seed(2))
    for ours, theirs in zip(*(forwards(m.policy, pair, torch.tensor([950.0, 950.0]), noise) for m in (fresh, model))):
        assert torch.equal(ours, theirs)


def test_a_reference_that_may_move_is_at_first_the_preceding_stage(request):
    still, moving = module(request), module(request, reference_update_every_n_steps=3)
    pair = pair_of(still.policy)
    noise = torch.randn(pair.chosen.shape, generator=torch.Generator().manual_seed(2))
    ours, theirs = (forwards(m.policy, pair, torch.tensor([950.0, 950.0]), noise) for m in (moving, still))
    assert torch.equal(ours.ref_chosen, theirs.ref_chosen) and torch.equal(ours.chosen, theirs.chosen)
    assert {k for k, p in moving.named_parameters() if p.requires_grad} == {
        k for k, p in still.named_parameters() if p.requires_grad
    }


def test_an_average_follows_the_adapter_and_is_what_is_saved(request, tmp_path):
    model, plain = module(request, ema_decay=0.75), module(request)
    policy, move, passed = model.policy, model.policy.move, []

    def weights(name: str) -> dict[str, torch.Tensor]:
        found = policy.experts.named_parameters()
        return {key.replace(f".{name}.", "."): value.detach().clone() for key, value in found if f".{name}." in key}

    expected = weights(POLICY)
    policy.move = lambda name, share: (move(name, share=share), passed.append(weights(POLICY)))
    pair = pair_of(policy)
    fit(model, pair, 3, tmp_path / "averaged")
    for now in passed:
        expected = {key: 0.75 * value + 0.25 * now[key] for key, value in expected.items()}
    assert len(passed) == 3 and any(value.abs().max() > 1e-4 for key, value in expected.items() if "lora_B" in key)
    for key, value in weights(AVERAGE).items():
        assert_close(value, expected[key])
    fit(plain, pair, 3, tmp_path / "plain")
    for (key, ours), theirs in zip(
        weights(POLICY).items(), [p for p in plain.policy.parameters() if p.requires_grad], strict=True
    ):
        assert torch.equal(ours, theirs), key
    policy.save_adapter(tmp_path)
    again = make(request, "wan22", adapter=str(tmp_path)).experts.named_parameters()
    saved = {key.replace(".policy.", "."): value for key, value in again if ".policy." in key}
    assert saved.keys() == expected.keys() and all(
        torch.equal(saved[key], value) for key, value in weights(AVERAGE).items()
    )
    assert {key for key in model.state_dict() if ".average." in key} == {
        k.replace(".policy.", ".average.") for k in plain.state_dict()
    }


def test_a_sources_meters_are_logged_with_the_step(request, tmp_path):
    class Timed(OfflinePairs):
        def __call__(self, batch, policy, step):
            self.meters = {"time/generate": torch.tensor(2.0), "rank/confidence": torch.tensor(0.5 + step / 10)}
            return super().__call__(batch, policy, step)

    model = module(request, pairs=Timed())
    rows = fit(model, pair_of(model.policy), 2, tmp_path)
    assert [float(row["time/generate"]) for row in rows] == [2.0, 2.0]
    assert_close([float(row["rank/confidence"]) for row in rows], [0.5, 0.6])


def test_a_pair_goes_through_as_many_windows_as_set(request, tmp_path):
    class Counted(OfflinePairs):
        calls = 0

        def __call__(self, *args):
            self.calls += 1
            return super().__call__(*args)

    pairs = Counted()
    model = module(request, pairs=pairs, windows_per_pair=2)
    rows = fit(model, pair_of(model.policy), 4, tmp_path)
    assert pairs.calls == 2 and [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    single = module(request)
    same = fit(single, pair_of(single.policy), 4, tmp_path / "single")  # the same pair each step: nothing else differs
    assert [(row["train/loss"], row["train/t_mean"]) for row in same] == [
        (row["train/loss"], row["train/t_mean"]) for row in rows
    ]
