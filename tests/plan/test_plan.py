"""Predictions against what a real training step of a tiny model does."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from apo.guidance.cfg import CFG
from apo.guidance.cfg_stg import CFGSTG
from apo.guidance.none import NoGuidance
from apo.interfaces import Pair
from apo.losses.preference import PreferenceLoss
from apo.objectives.diffusion_dpo import DiffusionDPO
from apo.plan import costs
from apo.plan.__main__ import composed, curriculum, main
from apo.plan.counting import counted, measured, passes
from apo.plan.frozen import frozen
from apo.plan.report import planned
from apo.policies.architecture import PUBLISHED, architecture_of
from apo.policies.model import VideoSpec
from apo.solvers.ode import generate, initial_noise
from apo.timesteps.uniform import UniformSampler
from tests.aligning import backward, window
from tests.builds import SPECS
from tests.plan.shapes import OFFLINE, ONE, PAIRS, ROWS, SMALL, gradients, with_gradients
from tests.policies.test_wan import LORA, STYLES, inputs


@STYLES
def test_passes_equal_those_of_the_policy_itself(tiny, style):
    policy, architecture, predicted = tiny(style, dtype="bfloat16")  # so that inputs are cast, and count as alive
    x_t, t, cond = inputs(policy, style, [950.0])
    there = [
        *policy.parameters(),
        *policy.buffers(),
        x_t,
        t,
        *(v for v in vars(cond).values() if isinstance(v, torch.Tensor)),
    ]
    forward = counted(torch.no_grad()(lambda: policy(x_t, t, cond)), there)
    with policy.using(None):
        base = counted(torch.no_grad()(lambda: policy(x_t, t, cond)), there)
    with_gradients(policy.train())
    train = counted(lambda: policy(x_t, t, cond).square().mean().backward(), there + gradients(policy))
    assert forward.flops == predicted.forward and base.flops == predicted.base_forward
    assert train.flops == predicted.forward + predicted.backward
    assert forward.live == pytest.approx(predicted.live_forward, rel=0.02)
    assert train.live == pytest.approx(predicted.live_train, rel=0.02)
    expert = policy.experts["transformer"]
    assert predicted.trained == sum(p.numel() for n, p in expert.named_parameters() if ".policy." in n)
    assert predicted.weights == sum(
        p.numel() * p.element_size() for n, p in expert.named_parameters() if "lora_" not in n
    )
    assert architecture.latent_shape(policy.spec) == policy.codec.latent_shape


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_steps_flops_and_memory_are_those_of_a_real_window(tiny, checkpointing):
    """Wan2.1 style, bfloat16 base under a float32 adapter: reference and policy forwards, backwards,
    over three rows.
    """
    policy, architecture, predicted = tiny("wan21", checkpointing, dtype="bfloat16")
    layout = replace(ONE, checkpointing=checkpointing)
    policy.train()
    x_0, _, cond = inputs(policy, "wan21", [950.0] * PAIRS)
    pair = Pair(x_0, torch.randn_like(x_0), cond)
    rows = window(policy, pair, UniformSampler(ROWS, None, 0))
    with_gradients(policy)
    loss = PreferenceLoss(DiffusionDPO(500))
    real = counted(
        lambda: list(backward(loss, policy, pair, rows)), [*policy.parameters(), *policy.buffers(), *gradients(policy)]
    )
    flops = costs.flops(OFFLINE, predicted, layout, 0.0)
    assert flops["generation"] == flops["ranking"] == 0
    assert sum(flops.values()) == real.flops
    memory = costs.memory(OFFLINE, predicted, layout, architecture.experts, True)
    assert memory["activations"] == pytest.approx(real.live, rel=0.1)
    held = sum(p.numel() * p.element_size() for p in policy.experts.parameters())
    assert memory["weights"] == held and memory["optimizer"] == 2 * memory["gradients"] == 8 * predicted.trained


def test_many_blocks_are_extrapolated_exactly(tiny):
    _, architecture, _ = tiny("wan21")
    deep = replace(architecture, transformer=architecture.transformer | {"num_layers": 6})
    given = ((16, 3, 8, 12), 512, LORA, torch.bfloat16)
    assert passes(deep, *given) == measured(deep, 6, *given)


def test_checkpointing_lowers_memory_and_raises_flops_as_predicted(tiny):
    _, _, predicted = tiny("wan22")
    assert predicted.live_checkpointed < predicted.live_train
    assert 0 < predicted.recomputation <= predicted.forward


@pytest.mark.parametrize("guidance, forwards", [(NoGuidance(), 1), (CFG(2.0, 2.0, 0.9), 2), (CFG(0.0, 0.0, 0.9), 1)])
def test_generation_costs_its_guided_solver_steps(tiny, guidance, forwards):
    policy, _, predicted = tiny("wan22")
    _, _, cond = inputs(policy, "wan22", [950.0, 950.0])
    real = counted(lambda: generate(policy, guidance, cond, initial_noise(policy, [1, 2])), [])
    assert costs.forwards_of(guidance).rows == forwards
    step = replace(OFFLINE, generated=2, at_once=2, guidance_rows=forwards)
    assert costs.flops(step, predicted, ONE, 0.0)["generation"] == real.flops


@pytest.mark.parametrize("batched, at_once", [(True, 3), (False, 1)])
def test_generation_holds_what_its_guidance_runs_at_once(tiny, batched, at_once):
    policy, architecture, predicted = tiny("wan22")
    _, _, cond = inputs(policy, "wan22", [950.0, 950.0])
    noise, guidance = initial_noise(policy, [1, 2]), CFGSTG(2.0, 2.0, 0.9, 1.0, [1], batched)
    there = [
        *policy.parameters(),
        *policy.buffers(),
        noise,
        *(v for v in vars(cond).values() if isinstance(v, torch.Tensor)),
    ]
    real = counted(lambda: generate(policy, guidance, cond, noise), there)
    given = [
        SMALL,
        "stage=online",
        "guidance=cfg_stg",
        f"guidance.batched={str(batched).lower()}",
        "sample_every_n_steps=0",
    ]
    asked = costs.step_of(composed(given))
    assert (asked.guidance_rows, asked.guidance_at_once) == (3, at_once)
    step = replace(asked, pairs=0, generated=2, at_once=2, solver_steps=4)  # nothing is trained on
    held = costs.memory(step, predicted, ONE, architecture.experts, True)["activations"]
    assert held == pytest.approx(
        real.live, rel=0.3
    )  # a tiny model's inputs, joined for its guidance, are no small part
    two, spec = replace(ONE, devices=2, shard=2), VideoSpec(**vars(SPECS["wan22"]), fps=8)
    volume = costs.communication(replace(step, rows=0), predicted, two, architecture, spec)["weights gathered"]
    assert volume == 4 * (3 // at_once) * predicted.weights / 2


def test_a_pair_for_two_windows_halves_what_generation_and_ranking_cost(tiny):
    _, _, predicted = tiny("wan22")
    online = replace(OFFLINE, generated=4, at_once=4, judged=2)
    once, twice = (costs.flops(replace(online, windows=windows), predicted, ONE, 1e9) for windows in (1, 2))
    assert twice == {part: value / 2 if part in ("generation", "ranking") else value for part, value in once.items()}


def test_a_split_backward_halves_activations_for_one_forward_a_row_and_pair(tiny):
    _, architecture, predicted = tiny("wan22")
    split = replace(ONE, split_backward=True)
    joint, halved = (costs.memory(OFFLINE, predicted, layout, architecture.experts, True) for layout in (ONE, split))
    assert halved["activations"] == joint["activations"] / 2
    more = sum(costs.flops(OFFLINE, predicted, split, 0.0).values()) - sum(
        costs.flops(OFFLINE, predicted, ONE, 0.0).values()
    )
    assert more == ROWS * PAIRS * predicted.forward


def test_sharding_and_context_parallel_divide_what_they_should(tiny):
    _, architecture, predicted = tiny("wan22")
    spec = VideoSpec(**vars(SPECS["wan22"]), fps=8)
    eight = replace(ONE, devices=8, shard=8, context_parallel=2)
    one, many = (costs.memory(OFFLINE, predicted, layout, 2, True) for layout in (ONE, eight))
    assert many["activations"] == one["activations"] / 2 and many["optimizer"] == one["optimizer"] / 8
    assert many["weights"] == pytest.approx(one["weights"] / 8 + 2 * predicted.block + predicted.around)
    halved = (sum(costs.flops(OFFLINE, predicted, ONE, 0).values()) + 2 * ROWS * PAIRS * predicted.self_attention) / 2
    assert sum(costs.flops(OFFLINE, predicted, eight, 0).values()) == halved
    assert predicted.self_attention == 2 * 2 * 2 * 32 * 18**2  # layers, products, multiply-adds, width, tokens
    assert eight.replicas == 4
    alone, shared = (costs.communication(OFFLINE, predicted, layout, architecture, spec) for layout in (ONE, eight))
    assert set(alone.values()) == {0.0} and min(shared.values()) > 0
    with pytest.raises(ValueError, match="trainer.shard=3: give a divisor of the 8 ranks"):
        replace(eight, shard=3)


def test_the_published_models_have_their_published_sizes():
    spec = VideoSpec(720, 960, 121, 24)
    assert PUBLISHED["Wan-AI/Wan2.2-I2V-A14B-Diffusers"].tokens(spec) == 83_700
    assert PUBLISHED["Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"].latent_shape(spec) == (16, 31, 90, 120)
    small = PUBLISHED["Wan-AI/Wan2.2-TI2V-5B-Diffusers"]
    assert small.latent_shape(VideoSpec(704, 960, 121, 24)) == (48, 31, 44, 60)
    with pytest.raises(ValueError, match="model.spec.height=720: must be a multiple of 32; the nearest is 704"):
        small.latent_shape(spec)
    for name, billions in (("wan22_i2v_a14b", 14.289), ("wan21_i2v_14b", 16.395), ("wan22_ti2v_5b", 5.0)):
        cfg = composed([f"model={name}"])
        architecture = architecture_of(instantiate(cfg.model))
        counted = passes(architecture, (architecture.channels, 1, 4, 4), 512, cfg.policy.lora, torch.float32)
        if name == "wan22_i2v_a14b":
            parts = frozen(architecture, instantiate(cfg.model))
            # UMT5-XXL's encoder has 5.68 billion parameters, the VAE 127 million; decoding: `AutoencoderKLWan` itself
            # on the meta device
            assert parts.weights == pytest.approx(5.68e9 * 2 + 127e6 * 4, rel=0.01) and parts.vae == pytest.approx(
                127e6 * 4, rel=0.01
            )
            whole = frozen(architecture, replace(instantiate(cfg.model), decode_tile=None))
            assert whole.decoding / 2**30 == pytest.approx(13.477, rel=0.001) and parts.decoding < 0.35 * whole.decoding
        assert counted.weights / 4e9 == pytest.approx(billions, rel=0.01)


def test_the_papers_set_up(capsys):
    """One A14B pair-timestep and one rollout, against figures that were counted layer by layer on the meta device."""
    overrides = ["model=wan22_i2v_a14b", "trainer.nodes=24", "trainer.devices=8", "stage=online"]
    plan = planned(composed(overrides))
    assert plan.passes.base_forward == pytest.approx(7.82e15, rel=0.02)
    assert plan.layout.shard == 8 and plan.layout.split_backward
    assert (
        plan.layout.replicas == 192 and plan.step.rows == 5 and plan.step.guidance_rows == 2 and plan.step.judged == 1
    )
    flops = plan.flops()
    assert flops["generation"] == pytest.approx(1251e15, rel=0.05) and flops["generation"] / sum(flops.values()) > 0.6
    assert plan.fits(plan.memory()) and not plan.fits(plan.memory(replace(plan.layout, checkpointing=False)))
    shared = planned(composed([*overrides, "trainer.context_parallel=4"]), plan)
    assert shared.layout.replicas == 48 and shared.memory()["activations"] == plan.memory()["activations"] / 4
    names = [name for name, _, _ in curriculum(overrides, plan)]
    assert names == ["1 online", "2 half-online", "3 offline", "4 guidance distillation", "5 distillation-aware"]
    main([*overrides, "plan.utilisation=0.5"])
    said = capsys.readouterr().out
    for words in (
        "83,700 tokens",
        "192 pairs a step",
        "It fits",
        "## Window sizes",
        "64,000 H200 hours",
        "50% are reached",
        "(chosen)",
    ):
        assert words in said


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["model=wan22_i2v_a14b", "model.path=someone/else"], "model.path=someone/else: no folder here"),
        (["model=wan22_ti2v_5b", "model.spec.height=720"], "model.spec.height=720: must be a multiple of 32"),
        ([SMALL, "trainer.context_parallel=3"], "trainer.context_parallel=3: give a divisor of the 2 ranks"),
        (
            ["trainer.devices=8", "trainer.context_parallel=4"],
            "trainer.context_parallel=4: the model has 2 attention heads",
        ),
        ([SMALL, "trainer.shard=3"], "trainer.shard=3: give node, all or a divisor of the 1 x 2 processes"),
        ([SMALL, "plan=h300"], "h300"),
        (
            ["stage=ranker_8b", "data=rankings", "data.path=rankings.jsonl"],
            "stage=ranker.* trains a ranking model, which is not planned",
        ),
        ([SMALL, "plan.nope=1"], "nope"),
        ([SMALL, "trainer.nodes=-1"], "trainer.nodes=-1: give a whole number"),
        ([SMALL, "batch_size=0"], "batch_size=0"),
        ([SMALL, "plan.utilisation=0"], "plan.utilisation=0: give a share above 0, up to 1"),
        ([SMALL, "plan.utilisation=40"], "a share"),
        ([SMALL, "trainer.gradient_checkpointing=maybe"], "give true or false"),
        ([SMALL, "guidance=cfg_stg", "guidance.blocks=[99]"], "guidance.blocks=.99.: there is no block 99"),
        ([SMALL, "policy.lora.targets=[to_x]"], "policy.lora.targets: the model has no layer to_x"),
        (["model.path={broken}"], "model.path=.*: transformer/config.json is missing or damaged .*: copy"),
    ],
)
def test_mistakes_name_the_key(overrides, said, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(SystemExit, match=said):
        main([override.format(broken=tmp_path) for override in overrides])


def test_what_generation_is_not_counted_by_is_said(capsys):
    main([SMALL, "stage=online", "cheaper=cache", "module.pairs.min_confidence=0.7"])
    said = capsys.readouterr().out
    assert (
        "First Block Cache: generation is counted whole" in said
        and "min_confidence=0.7: one attempt is counted of at most 3" in said
    )
    main(["--help"])
    assert "needs no GPU" in capsys.readouterr().out


def test_a_model_too_large_is_told_so_with_the_layout_that_fits(capsys):
    main(["model=wan22_i2v_a14b", "plan=h100", "trainer.devices=8", "stage=offline"])
    assert "**It does not fit**" in capsys.readouterr().out
