"""The policy against WanImageToVideoPipeline itself, in the three styles."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from apo.guidance.cfg import CFG
from apo.guidance.none import NoGuidance
from apo.interfaces import Condition
from apo.policies.model import VideoSpec, WanModel
from apo.policies.wan import WanPolicy
from apo.solvers.ode import generate, initial_noise
from tests.builds import PROMPT, SPECS, first_frame, load, sample

LORA = {"rank": 4, "alpha": 4, "targets": ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]}
STYLES = pytest.mark.parametrize("style", ["wan21", "wan22", "ti2v"])


def make(
    request,
    style: str,
    lora=LORA,
    adapter=None,
    checkpointing=False,
    shard=None,
    context_parallel=1,
    offload=False,
    **changes,
) -> WanPolicy:
    spec = SPECS[style]
    settings = dict(
        path=str(request.getfixturevalue(f"{style}_folder")),
        spec=VideoSpec(spec.height, spec.width, spec.frames, 8),
        shift=5.0,
        num_inference_steps=4,
        boundary=0.9 if style == "wan22" else None,
        omega={"high": 2.0, "low": 2.0},
        max_sequence_length=512,
        negative_prompt="",
        lora_targets=tuple(LORA["targets"]),
        dtype="float32",
    )
    return WanPolicy(
        WanModel(**(settings | changes)), lora, adapter, 0, checkpointing, shard, context_parallel, offload
    ).eval()


def frame(style: str, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.array(first_frame(SPECS[style], seed))).permute(2, 0, 1)[None]


def perturbed(policy: WanPolicy, scale: float = 0.1) -> WanPolicy:
    """The policy with an adapter that matters."""
    rng = torch.Generator().manual_seed(3)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += scale * torch.randn(parameter.shape, generator=rng)
    return policy


def inputs(policy: WanPolicy, style: str, t: list[float]) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    cond = policy.encode_condition([PROMPT] * len(t), frame(style).expand(len(t), -1, -1, -1))
    return initial_noise(policy, range(len(t))), torch.tensor(t), cond


@STYLES
def test_generate_equals_the_pipeline(request, style):
    policy = make(request, style)
    cond = policy.encode_condition([PROMPT], frame(style))
    ours = generate(policy, CFG(2.0, 2.0, policy.model.boundary), cond, initial_noise(policy, [1]))
    assert_close(ours, sample(load(policy.model.folder()), SPECS[style]), rtol=1e-4, atol=1e-4)


@STYLES
def test_generate_with_lora_equals_the_pipeline_with_the_saved_lora(request, style, tmp_path):
    policy = perturbed(make(request, style))
    policy.save_adapter(tmp_path)
    pipeline = load(policy.model.folder())
    pipeline.load_lora_weights(tmp_path, weight_name="high_noise.safetensors", adapter_name="apo")
    if style == "wan22":
        pipeline.load_lora_weights(
            tmp_path, weight_name="low_noise.safetensors", adapter_name="apo_low", load_into_transformer_2=True
        )
    cond = policy.encode_condition([PROMPT], frame(style))
    ours = generate(policy, CFG(2.0, 2.0, policy.model.boundary), cond, initial_noise(policy, [1]))
    assert_close(ours, sample(pipeline, SPECS[style]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, sample(load(policy.model.folder()), SPECS[style]), atol=1e-2)


@STYLES
def test_a_batch_of_images_equals_single_runs(request, style):
    policy = make(request, style)
    frames = torch.cat([frame(style, 0), frame(style, 1)])
    noise = initial_noise(policy, [5, 6])
    both = generate(policy, NoGuidance(), policy.encode_condition([PROMPT, "the"], frames), noise)
    for i, prompt in enumerate([PROMPT, "the"]):
        alone = generate(policy, NoGuidance(), policy.encode_condition([prompt], frames[i : i + 1]), noise[i : i + 1])
        assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@STYLES
def test_decode_equals_the_pipeline(request, style):
    policy, pipeline = make(request, style), load(request.getfixturevalue(f"{style}_folder"))
    latents = initial_noise(policy, [2])
    theirs = torch.from_numpy(sample(pipeline, SPECS[style], latents=latents, num_inference_steps=2, output_type="np"))
    cond = policy.encode_condition([PROMPT], frame(style))
    policy = make(request, style, num_inference_steps=2)
    ours = policy.decode(generate(policy, CFG(2.0, 2.0, policy.model.boundary), cond, latents))
    assert (ours[0].movedim(1, -1).float() / 255 - theirs[0]).abs().max() <= 1.01 / 255


def test_routing_is_by_noise_level_and_never_straddles(request):
    policy = make(request, "wan22")
    assert policy.expert(torch.tensor([900.0, 1000.0])) is policy.experts["transformer"]
    assert policy.expert(torch.tensor([0.0, 899.9])) is policy.experts["transformer_2"]
    with pytest.raises(ValueError, match=r"\[912.0, 880.0\] straddle the expert boundary 900"):
        policy.expert(torch.tensor([912.0, 880.0]))


@STYLES
def test_reference_is_the_base_and_stays_put(request, style):
    policy = make(request, style)
    x_t, t, cond = inputs(policy, style, [950.0])
    with torch.no_grad():
        before = policy(x_t, t, cond)
        perturbed(policy)
        after = policy(x_t, t, cond)
        with policy.reference():
            reference = policy(x_t, t, cond)
    assert torch.equal(before, reference) and not torch.allclose(before, after, atol=1e-3)


def test_any_number_of_copies_stays_while_the_policy_moves_and_moves_when_told(request):
    policy = perturbed(make(request, "wan22"))
    x_t, t, cond = inputs(policy, "wan22", [950.0])
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]

    def velocity(name: str | None = "policy") -> torch.Tensor:
        with torch.no_grad(), policy.using(name):
            return policy(x_t, t, cond)

    start, base = velocity(), velocity(None)
    policy.keep("old")
    policy.keep("older")
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trained
    assert torch.equal(velocity(), start) and torch.equal(velocity("old"), start)
    perturbed(policy)
    now = velocity()
    policy.keep("old")  # again: it stays
    assert torch.equal(velocity("old"), start) and not torch.allclose(now, start, atol=1e-3)
    policy.move("old", share=0.25)
    weights = dict(policy.experts.named_parameters())
    for name in (name.removeprefix("experts.") for name in trained):
        old, older = (weights[name.replace(".policy.", f".{copy}.")] for copy in ("old", "older"))
        assert_close(old, 0.75 * older + 0.25 * weights[name])
    policy.move("older", toward="old")
    assert torch.equal(velocity("older"), velocity("old"))
    policy.move("old")
    assert torch.equal(velocity("old"), now) and torch.equal(velocity(None), base)
    with policy.reference():  # there is none: the base
        assert torch.equal(policy(x_t, t, cond), base)


def test_without_an_adapter_there_is_nothing_to_copy(request):
    with pytest.raises(ValueError, match="policy.lora=null has no adapter, of which old could be a copy"):
        make(request, "wan22", lora=None).keep("old")


def test_the_next_stage_starts_at_its_reference(request, tmp_path):
    perturbed(make(request, "wan22")).save_adapter(tmp_path)
    policy = make(request, "wan22", adapter=str(tmp_path))
    x_t, t, cond = inputs(policy, "wan22", [950.0])
    with torch.no_grad():
        start = policy(x_t, t, cond)
        with policy.reference():
            assert torch.equal(policy(x_t, t, cond), start)
        with policy.using(None):
            assert not torch.allclose(policy(x_t, t, cond), start, atol=1e-3)
        perturbed(policy)
        with policy.reference():
            assert torch.equal(policy(x_t, t, cond), start)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert trained and all(".policy." in name for name in trained)


def test_one_copy_of_the_base_weights(request):
    policy = make(request, "wan22")
    experts = load(policy.model.folder())
    base = sum(p.numel() for p in (*experts.transformer.parameters(), *experts.transformer_2.parameters()))
    ours = sum(p.numel() for n, p in policy.experts.named_parameters() if "lora_" not in n)
    assert ours == base


def test_lora_is_float32_over_a_bfloat16_base(request):
    policy = make(request, "wan22", dtype="bfloat16")
    kinds = {("lora" in n, p.dtype) for n, p in policy.experts.named_parameters() if p.ndim == 2}
    assert (True, torch.float32) in kinds and (True, torch.bfloat16) not in kinds and (False, torch.bfloat16) in kinds


def test_gradient_checkpointing_gives_the_same_gradients(request):
    gradients = []
    for checkpointing in (False, True):
        policy = perturbed(make(request, "wan22", checkpointing=checkpointing)).train()
        x_t, t, cond = inputs(policy, "wan22", [500.0, 700.0])
        with torch.no_grad(), policy.reference():
            policy(x_t, t, cond)
        policy(x_t, t, cond).square().mean().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert gradients[0] and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients))


def test_skipped_blocks_are_the_identity(request):
    policy = make(request, "wan22")
    x_t, t, cond = inputs(policy, "wan22", [950.0])
    with torch.no_grad():
        full = policy(x_t, t, cond)
        with policy.skip([1]):
            weak = policy(x_t, t, cond)
        expert = policy.experts["transformer"]
        kept, expert.blocks = expert.blocks, expert.blocks[:1]
        assert torch.equal(policy(x_t, t, cond), weak)
        expert.blocks = kept
        assert torch.equal(policy(x_t, t, cond), full) and not torch.allclose(full, weak, atol=1e-3)


def test_rows_before_start_keep_their_blocks_in_both_experts(request):
    policy = make(request, "wan22")
    for t in (950.0, 500.0):
        x_t, t, cond = inputs(policy, "wan22", [t] * 3)
        with torch.no_grad():
            full = policy(x_t, t, cond)
            with policy.skip([0]):
                weak = policy(x_t, t, cond)
            with policy.skip([0], start=2):
                both = policy(x_t, t, cond)
        assert_close(both, torch.cat([full[:2], weak[2:]]), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(full, weak, atol=1e-3)


def test_ti2v_ignores_the_noise_of_its_first_frame(request):
    policy = make(request, "ti2v")
    x_t, t, cond = inputs(policy, "ti2v", [500.0])
    other = x_t.clone()
    other[:, :, 0] += 1
    target = torch.zeros_like(x_t)
    with torch.no_grad():
        assert torch.equal(policy(x_t, t, cond), policy(other, t, cond))
        target[:, :, 0] = 100
        assert policy.error(x_t, t, cond, target) == policy.error(x_t, t, cond, torch.zeros_like(x_t))


def test_mistakes_name_the_field(request, tmp_path):
    with pytest.raises(ValueError, match="model.boundary=None but .* has 2 expert"):
        make(request, "wan22", boundary=None)
    with pytest.raises(ValueError, match="model.spec.frames=10: must be a multiple of 4 plus 1; the nearest is 9"):
        make(request, "wan22", spec=VideoSpec(32, 48, 10, 8))
    with pytest.raises(ValueError, match="model.spec.width=50: must be a multiple of 16; the nearest is 48"):
        make(request, "wan22", spec=VideoSpec(32, 50, 9, 8))
    with pytest.raises(ValueError, match="model.path=./nowhere"):
        WanModel(**(vars(make(request, "wan21").model) | {"path": "./nowhere"})).check()
    with pytest.raises(ValueError, match="high_noise.safetensors"):
        make(request, "wan22", adapter=str(tmp_path))
    make(request, "wan22").save_adapter(tmp_path)
    with pytest.raises(ValueError, match="does not fit the adapter"):
        make(request, "wan22", lora=LORA | {"rank": 8}, adapter=str(tmp_path))
