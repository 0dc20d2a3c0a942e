"""The plan as text: what a step costs, whether it fits, what else could be chosen, what five stages take."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from apo.config.validation import check_values
from apo.parts import Setting
from apo.plan import costs
from apo.plan.costs import Layout, Step
from apo.plan.counting import Passes, passes
from apo.plan.frozen import Frozen, frozen
from apo.policies.architecture import Architecture, architecture_of, check_targets
from apo.policies.context import require_divisible
from apo.policies.model import VideoSpec

GIB, PFLOP, HOUR = 2**30, 1e15, 3600
PAPER_HOURS = 64_000  # Sec. 4.1: H200 hours of the five stages
WINDOWS, DEGREES = (1, 2, 5, 10), (1, 2, 4, 8)
TILE = 256  # pixels, diffusers' own
NOTHING = "no layout below does: give trainer=fsdp more devices, or lower batch_size, the window's videos or model.spec"


@dataclass(frozen=True)
class Plan:
    """A config with what was counted for it."""

    cfg: DictConfig
    architecture: Architecture
    passes: Passes
    step: Step
    layout: Layout
    frozen: Frozen

    @property
    def spec(self) -> VideoSpec:
        return VideoSpec(**self.cfg.model.spec)

    def flops(self, step: Step | None = None, layout: Layout | None = None) -> dict[str, float]:
        return costs.flops(step or self.step, self.passes, layout or self.layout, costs.ranking_flops(self.cfg))

    def seconds(self, flops: dict[str, float]) -> float:
        """Of a step at the stated utilisation."""
        return sum(flops.values()) / (self.cfg.plan.gpu.flops * self.cfg.plan.utilisation)

    def memory(self, layout: Layout | None = None) -> dict[str, float]:
        lora = self.cfg.policy.lora is not None
        found = costs.memory(self.step, self.passes, layout or self.layout, self.architecture.experts, lora)
        found = costs.with_frozen(found, self.step, self.frozen, self.cfg.trainer.offload)
        return found | {"reserve": self.cfg.plan.reserve_gib * GIB}

    def fits(self, memory: dict[str, float]) -> bool:
        return sum(memory.values()) <= self.cfg.plan.gpu.memory_gib * GIB


def planned(cfg: DictConfig, known: Plan | None = None) -> Plan:
    """known: a plan of the same model, videos and adapter, whose counts are taken over. ValueError names the field."""
    if cfg.stage.trains != "model":
        raise ValueError(
            f"stage={cfg.stage.name} trains a ranking model, which is not planned here: give a stage of the video model"
        )
    if known is None:  # else the command is another stage's, with settings that this one may not have
        check_values(cfg, "Planning")
    layout, step = costs.layout_of(cfg), costs.step_of(cfg)
    if known is not None:
        return Plan(cfg, known.architecture, known.passes, step, layout, known.frozen)
    model = instantiate(cfg.model)
    architecture = architecture_of(model)
    require_divisible(layout.context_parallel, architecture.heads, architecture.tokens(model.spec))
    instantiate(cfg.guidance).check(
        Setting(model.spec, model=model, architecture=architecture, context_parallel=layout.context_parallel)
    )
    if cfg.policy.lora is not None:
        check_targets(cfg.policy.lora.targets, architecture)
    dtype = getattr(torch, model.dtype)
    counted = passes(
        architecture, architecture.latent_shape(model.spec), model.max_sequence_length, cfg.policy.lora, dtype
    )
    return Plan(cfg, architecture, counted, step, layout, frozen(architecture, model))


def report(plan: Plan, stages: list[tuple[str, Plan, int]]) -> str:
    """stages: name, plan and optimizer steps of each stage of the curriculum."""
    parts = [heading(plan), step_table(plan), memory_table(plan), communication_table(plan)]
    return "\n\n".join([*parts, layout_table(plan), window_table(plan), curriculum_table(stages), assumptions(plan)])


def heading(plan: Plan) -> str:
    layout, spec, gpu = plan.layout, plan.spec, plan.cfg.plan.gpu.name
    hours = plan.cfg.max_steps * plan.seconds(plan.flops()) / HOUR
    return (
        f"# stage={plan.cfg.stage.name} of {plan.cfg.model.path} on {layout.nodes} x {layout.devices} {gpu}\n\n"
        f"{spec.height} x {spec.width}, {spec.frames} frames: {plan.architecture.tokens(spec):,} tokens. "
        f"{plan.step.pairs * layout.replicas} pairs a step, {plan.step.rows} window rows. "
        f"{plan.cfg.max_steps} steps: **{hours:,.1f} h, {hours * layout.ranks:,.0f} {gpu} hours**. {verdict(plan)}"
    )


def verdict(plan: Plan) -> str:
    memory = plan.memory()
    said = f"{sum(memory.values()) / GIB:.1f} GiB of {plan.cfg.plan.gpu.memory_gib:g}"
    if plan.fits(memory):
        return f"It fits: {said} per rank."
    fitting = [layout for layout in layouts(plan) if plan.fits(plan.memory(layout))]
    remedy = next(chain((f"{described(layout)} would" for layout in fitting), remedies(plan)), NOTHING)
    return f"**It does not fit**: {said} per rank; {remedy}."


def remedies(plan: Plan) -> Iterator[str]:
    """What else would make it fit, the cheapest first."""
    for change in (
        "trainer.offload=true",
        f"model.decode_tile={TILE}",
        f"trainer.offload=true model.decode_tile={TILE}",
    ):
        cfg = OmegaConf.merge(plan.cfg, OmegaConf.from_dotlist(change.split()))
        changed = replace(plan, cfg=cfg)
        if "decode_tile" in change:
            changed = replace(changed, frozen=frozen(plan.architecture, instantiate(cfg.model)))
        if layout := next(
            (layout for layout in [plan.layout, *layouts(plan)] if changed.fits(changed.memory(layout))), None
        ):
            yield change + ("" if layout == plan.layout else f" and {described(layout)}") + " would"


def step_table(plan: Plan) -> str:
    flops = plan.flops()
    total = sum(flops.values())
    rows = [[part, f"{value / PFLOP:,.4g}", f"{value / total:.1%}"] for part, value in flops.items()]
    rows.append(["all", f"{total / PFLOP:,.4g}", f"{plan.seconds(flops):,.4g} s"])
    return section("An optimizer step, per rank", ["part", "PFLOPs", "share"], rows)


def memory_table(plan: Plan) -> str:
    memory = plan.memory()
    rows = [[kind, f"{value / GIB:.3g}"] for kind, value in memory.items()]
    return section(
        "Memory at the peak, per rank", ["kind", "GiB"], [*rows, ["all", f"{sum(memory.values()) / GIB:.4g}"]]
    )


def communication_table(plan: Plan) -> str:
    volumes = volumes_of(plan, plan.layout)
    unhidden = costs.seconds(volumes, plan.layout, plan.cfg.plan.bandwidth)
    rows = [[purpose, f"{value / GIB:,.4g}"] for purpose, value in volumes.items()]
    rows.append(["all", f"{sum(volumes.values()) / GIB:,.4g}: {unhidden:,.3g} s if nothing hid it"])
    return section("Communication of a step, received per rank", ["for", "GiB"], rows)


def volumes_of(plan: Plan, layout: Layout) -> dict[str, float]:
    return costs.communication(plan.step, plan.passes, layout, plan.architecture, plan.spec)


def layouts(plan: Plan) -> list[Layout]:
    """Degrees that the ranks, the attention heads and a video's tokens allow, the cheapest first."""
    allowed = math.gcd(plan.layout.ranks, plan.architecture.heads, plan.architecture.tokens(plan.spec))
    return [
        replace(plan.layout, context_parallel=degree, checkpointing=checkpointing, split_backward=split)
        for degree in DEGREES
        if allowed % degree == 0
        for checkpointing in (False, True)
        for split in (False, True)
    ]


def described(layout: Layout) -> str:
    words = [f"context parallel {layout.context_parallel}"]
    words += ["checkpointing"] * layout.checkpointing + ["split backward"] * layout.split_backward
    return ", ".join(words)


def layout_table(plan: Plan) -> str:
    rows = []
    for layout in layouts(plan):
        memory, flops = plan.memory(layout), plan.flops(layout=layout)
        unhidden = costs.seconds(volumes_of(plan, layout), layout, plan.cfg.plan.bandwidth)
        sizes = [f"{memory[kind] / GIB:.1f}" for kind in ("weights", "activations")] + [
            f"{sum(memory.values()) / GIB:.1f}"
        ]
        chosen = " (chosen)" if layout == plan.layout else ""
        rows.append(
            [
                described(layout) + chosen,
                *sizes,
                "yes" if plan.fits(memory) else "no",
                f"{plan.seconds(flops):,.4g}",
                f"{unhidden:,.3g}",
                plan.step.pairs * layout.replicas,
            ]
        )
    columns = ["layout", "weights, GiB", "activations", "all", "fits", "s a step", "communication, s", "pairs a step"]
    return section("Other layouts of the same step", columns, rows)


def window_table(plan: Plan) -> str:
    rows = []
    for window in WINDOWS:
        flops = plan.flops(replace(plan.step, rows=window))
        total = sum(flops.values())
        rows.append(
            [window, f"{total / PFLOP:,.4g}", f"{flops['generation'] / total:.1%}", f"{total / PFLOP / window:,.4g}"]
        )
    table = section("Window sizes", ["rows K", "PFLOPs a step and rank", "generation's share", "PFLOPs a row"], rows)
    return f"{table}\n\nRows come one after the other: memory is the same for all."


def curriculum_table(stages: list[tuple[str, Plan, int]]) -> str:
    costed = [(name, plan.flops(), steps) for name, plan, steps in stages]
    first = stages[0][1]
    ranks, rows, total = first.layout.ranks, [], 0.0
    for name, flops, steps in costed:
        hours = steps * first.seconds(flops) / HOUR
        total += hours * ranks
        rows.append([name, steps, f"{sum(flops.values()) / PFLOP:,.4g}", f"{hours:,.1f}", f"{hours * ranks:,.0f}"])
    pairs = first.step.pairs * first.layout.replicas
    rows.append(["all five", "", "", "", f"**{total:,.0f}**"])
    gpu = first.cfg.plan.gpu.name
    said = (
        f"The paper's five stages took about {PAPER_HOURS:,} H200 hours (Sec. 4.1): at these assumptions those buy "
        f"{pairs * PAPER_HOURS / total:,.0f} pairs a step. It does not state its batch; this table has {pairs}."
    )
    columns = ["stage", "steps", "PFLOPs a step and rank", "h", f"{gpu} hours"]
    return section("The five stages", columns, rows) + f"\n\n{said}"


def assumptions(plan: Plan) -> str:
    assumed, layout, step = plan.cfg.plan, plan.layout, plan.step
    lora = plan.cfg.policy.lora
    lines = [
        f"{assumed.gpu.name}: {assumed.gpu.memory_gib:g} GiB, {assumed.gpu.flops / 1e12:g} TFLOP/s at "
        "bfloat16, of which "
        f"{assumed.utilisation:.0%} are reached; {assumed.bandwidth.node / 1e9:g} GB/s within a node and "
        f"{assumed.bandwidth.network / 1e9:g} GB/s beyond it. No GPU was at hand: none of this was measured.",
        "A command that names none has trainer=fsdp, ranker=served, plan=h200 and batch_size=1.",
        "Hours count arithmetic alone: communication, loading, decoding, held-out pairs and waiting for a ranker are "
        "hidden or left out.",
        "FLOPs are those of matrix products and attention; VAE, text encoder, optimizer and the rankers' attention "
        "are left out.",
        "Two and three blocks of the transformer's own code run on tensors without data; "
        f"{plan.architecture.transformer['num_layers']} are extrapolated. Attention is a fused kernel, whose backward "
        "has five products.",
        f"Weights are sharded over {layout.shard} ranks and gathered block by block, one ahead; "
        + (
            "all are trained"
            if lora is None
            else f"LoRA of rank {lora['rank']} is float32 and its gradient is kept whole on every rank"
        )
        + "; activations fall with the context-parallel degree, and from degree 2 on diffusers' native attention runs "
        "its forward once "
        "more in the backward; the ranker is off the GPU.",
        f"VAE and text encoder are {plan.frozen.weights / GIB:.3g} GiB, "
        + (
            "on the GPU only while they work, and in each process's host memory"
            if plan.cfg.trainer.offload
            else "always on the GPU (trainer.offload=false)"
        )
        + f"; decoding a video takes {plan.frozen.decoding / GIB:.3g} GiB in float32, "
        + (
            "whole."
            if plan.cfg.model.get("decode_tile") is None
            else f"in tiles of {plan.cfg.model.decode_tile} pixels."
        ),
        *rollouts(plan.cfg),
        f"A split backward costs one forward per pair and row more. {step.guidance_rows} forward(s) per solver step, "
        f"{step.solver_steps} steps, {step.at_once or 0} video(s) at once.",
        f"Ranking: {assumed.ranker.parameters / 1e9:g} billion parameters, two videos of {assumed.ranker.frames} "
        "frames uncropped, "
        f"{assumed.ranker.orders} orders" + ("." if step.judged else "; not in this step."),
        "Guidance distillation learns at the sampler's timesteps, on both videos of a pair unless "
        "module.rejected=false. "
        "The paper states neither its steps nor any batch size.",
    ]
    return "## Assumptions\n\n" + "\n".join(f"- {line}" for line in lines)


def rollouts(cfg: DictConfig) -> Iterator[str]:
    """What of the stage's settings generation is not counted by."""
    if OmegaConf.select(cfg, "module.pairs.rollout.cache_threshold") is not None:
        yield "First Block Cache: generation is counted whole; what is left out hangs on the videos and the threshold."
    if (least := OmegaConf.select(cfg, "module.pairs.min_confidence") or 0) > 0:
        yield f"min_confidence={least:g}: one attempt is counted of at most {cfg.module.pairs.max_attempts}."


def section(title: str, columns: list[str], rows: list[list]) -> str:
    lines = [f"## {title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])
