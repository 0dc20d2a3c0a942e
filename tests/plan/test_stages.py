"""The curriculum's stages, distillation's teacher, VAE and text encoder in the plan, against what they really take."""

from dataclasses import replace

import pytest
import torch

from apo.guidance.cfg import CFG
from apo.guidance.cfg_stg import CFGSTG
from apo.guidance.none import NoGuidance
from apo.plan import costs
from apo.plan.__main__ import composed, curriculum
from apo.plan.counting import counted, passes
from apo.plan.frozen import Frozen, frozen
from apo.plan.report import planned, verdict
from apo.policies.architecture import read
from apo.policies.model import VideoSpec
from apo.solvers.ode import generate, initial_noise
from tests.aligning import backward, distilling, pair_of, window
from tests.plan.shapes import OFFLINE, ONE, PAIRS, SMALL, with_gradients
from tests.policies.test_wan import LORA, inputs, make

TEACHERS = {
    "cfg_stg": (CFGSTG(2.0, 2.0, 0.9, 1.0, [1], True), 3, 3, 1),
    "in_turn": (CFGSTG(2.0, 2.0, 0.9, 1.0, [1], False), 3, 1, 1),
    "cfg": (CFG(2.0, 2.0, 0.9), 2, 2, 0),
}  # guidance, forwards of a video, at once, blocks left out


@pytest.mark.parametrize(
    "teacher, rejected, adapted",
    [
        ("cfg_stg", True, True),
        ("in_turn", False, True),
        ("cfg", True, False),
        ("cfg_stg", False, False),
    ],
)
def test_a_distillation_steps_flops_are_those_of_a_real_window(request, tmp_path, teacher, rejected, adapted):
    guidance, forwards, at_once, left_out = TEACHERS[teacher]
    make(request, "wan22").save_adapter(tmp_path)
    policy = make(request, "wan22", adapter=str(tmp_path) if adapted else None).train()
    assert len(policy.null_text) == 1  # is encoded here, once: no part of a step
    architecture = read(policy.model.folder())
    predicted = passes(architecture, policy.codec.latent_shape, policy.max_sequence_length, LORA, torch.float32)
    split = teacher == "cfg_stg"
    module = distilling(request, guidance, rejected, split, policy=policy)
    pair = pair_of(policy, PAIRS)
    windows = window(policy, pair, module.window.sampler)
    with_gradients(policy)

    asked = costs.forwards_of(guidance)
    assert (asked.rows, asked.at_once, asked.left_out) == (forwards, at_once, left_out)
    step = replace(
        OFFLINE,
        rows=len(windows),
        videos=1 + rejected,
        adapted_reference=adapted,
        preference=False,
        reference_forwards=forwards,
        reference_at_once=at_once,
        reference_left_out=left_out,
    )
    found = costs.flops(step, predicted, replace(ONE, split_backward=split), 0.0)  # which costs distillation nothing
    assert sum(found.values()) == counted(lambda: list(backward(module.loss, policy, pair, windows)), []).flops
    videos = len(windows) * PAIRS * (1 + rejected)
    forward, block = (
        (predicted.forward, predicted.block_forward)
        if adapted
        else (predicted.base_forward, predicted.block_base_forward)
    )
    assert found["reference"] == videos * (forwards * forward - left_out * block)


def test_stages_are_planned_as_their_configs_say():
    more = [SMALL, "adapter=preceding", "batch_size=2"]
    distill, sequence, student = (
        costs.step_of(composed([*more, *o]))
        for o in (
            ["stage=distill"],
            ["stage=distill", "guidance=cfg_stg", "guidance.batched=false", "module.loss.rejected=false"],
            ["stage=distill_dpo"],
        )
    )
    assert (distill.rows, distill.videos, distill.reference_forwards, distill.reference_at_once) == (5, 2, 3, 3)
    assert (sequence.videos, sequence.reference_forwards, sequence.reference_at_once, sequence.reference_left_out) == (
        1,
        3,
        1,
        1,
    )
    assert not distill.preference and distill.generated == distill.judged == 0 and distill.adapted_reference
    assert costs.step_of(composed([*more, "stage=distill", "guidance=cfg"])).reference_forwards == 2
    assert student.preference and (student.videos, student.reference_forwards, student.guidance_rows) == (2, 1, 1)


def test_the_curriculum_takes_over_what_suits_each_stage():
    overrides = [SMALL, "stage=distill", "adapter=preceding", "module.loss.rejected=false", "batch_size=2"]
    stages = {name: plan.step for name, plan, _ in curriculum(overrides, planned(composed(overrides)))}
    assert stages["4 guidance distillation"].videos == 1 and {step.videos for step in stages.values()} == {1, 2}
    unguided = [SMALL, "guidance=none"]
    stages = {name: plan.step for name, plan, _ in curriculum(unguided, planned(composed(unguided)))}
    assert stages["1 online"].guidance_rows == 1 and stages["4 guidance distillation"].reference_forwards == 3


def test_what_a_teacher_holds_counts(tiny):
    _, architecture, predicted = tiny("wan22")
    step = replace(OFFLINE, preference=False, reference_forwards=1000)
    held = [
        costs.memory(replace(step, reference_at_once=n), predicted, ONE, architecture.experts, True)["activations"]
        for n in (1, 1000)
    ]
    assert held[0] == 2 * PAIRS * predicted.live_train and held[1] == 2000 * PAIRS * predicted.live_forward


@pytest.mark.parametrize("style, side", [("wan22", None), ("wan22", 64), ("ti2v", None), ("ti2v", 64)])
@pytest.mark.parametrize("videos", [1, 2])
def test_decoding_takes_what_was_predicted(request, style, side, videos):
    policy = make(request, style, decode_tile=side, spec=VideoSpec(128, 192, 17, 8))
    architecture, latents = read(policy.model.folder()), initial_noise(policy, range(videos))
    predicted = frozen(architecture, policy.model)
    real = counted(lambda: policy.decode(latents), [latents, *policy.codec.parameters(), *policy.codec.buffers()])
    assert predicted.at_the_peak(videos) == pytest.approx(real.live, rel=0.1)
    parts = [getattr(policy.codec.pipeline, name) for name in ("vae", "text_encoder")]
    assert predicted.weights == sum(p.numel() * p.element_size() for part in parts for p in part.parameters())


def test_offloaded_parts_take_memory_only_while_they_work(tiny):
    _, architecture, predicted = tiny("wan22")
    memory = costs.memory(OFFLINE, predicted, ONE, architecture.experts, True)
    parts = Frozen(weights=1e9, vae=1e8, decoding=1e12, video=1e6, sliced=True)
    generating = replace(OFFLINE, generated=2, at_once=2)
    assert costs.with_frozen(memory, OFFLINE, parts, offload=True) == memory | {"VAE and text encoder": 0}
    assert costs.with_frozen(memory, OFFLINE, parts, offload=False) == memory | {"VAE and text encoder": 1e9}
    found = [costs.with_frozen(memory, generating, parts, offload)["activations"] for offload in (True, False)]
    assert found == [1e12 + 1e8 + 1e6, 1e12 + 1e6]


def test_copies_of_the_adapter_count(tiny):
    _, architecture, predicted = tiny("wan22")
    once, twice, thrice = (
        costs.memory(
            costs.step_of(composed([SMALL, "stage=online", *more])), predicted, ONE, architecture.experts, True
        )["weights"]
        for more in ([], ["ema_decay=0.9"], ["ema_decay=0.9", "module.reference_update_every_n_steps=5"])
    )
    assert twice - once == thrice - twice == 4 * predicted.trained * architecture.experts


def test_sample_videos_count(tiny):
    policy, architecture, predicted = tiny("wan22")
    _, _, cond = inputs(policy, "wan22", [950.0])
    step = costs.step_of(
        composed([SMALL, "model.num_inference_steps=4", "stage=distill", "sample_every_n_steps=8"])
    )  # the student's
    guided = costs.step_of(
        composed([SMALL, "model.num_inference_steps=4", "guidance=cfg_stg", "sample_every_n_steps=8"])
    )
    for asked, guidance in ((step, NoGuidance()), (guided, CFG(2.0, 2.0, 0.9))):
        real = counted(lambda guidance=guidance: generate(policy, guidance, cond, initial_noise(policy, [1])), [])
        asked = replace(asked, sample_rows=2) if asked is guided else asked  # but for the block that STG leaves out
        assert costs.flops(asked, predicted, ONE, 0.0)["sample videos"] == real.flops * 4 / 8
    alone, many = (
        costs.flops(step, predicted, replace(ONE, devices=devices), 0.0)["sample videos"] for devices in (1, 3)
    )
    assert many == alone / 2  # of four videos, three replicas make two each
    memory = costs.memory(step, predicted, ONE, architecture.experts, True)
    parts = Frozen(weights=1e9, vae=1e8, decoding=1e12, video=1e6, sliced=True)
    assert costs.with_frozen(memory, step, parts, offload=False)["activations"] == 1e12
    assert costs.flops(replace(step, samples=0), predicted, ONE, 0.0)["sample videos"] == 0


def test_a_model_too_large_whole_is_told_to_decode_in_tiles():
    small = [
        "model=wan22_ti2v_5b",
        "plan=h100",
        "trainer.devices=8",
        "stage=online",
        "model.decode_tile=null",
        "plan.reserve_gib=44",
    ]
    plan = planned(composed(small))
    assert not plan.fits(plan.memory()) and "model.decode_tile=256 would" in verdict(plan)
