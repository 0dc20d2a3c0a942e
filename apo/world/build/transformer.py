"""Step 2 of `make world`: the baseline's two experts, each trained from scratch on its own noise levels.

Pretraining data carries two documented bad modes, as web-scale data does: a share of clips is flawed
(`flaws.PLANTED`) and a share of captions names a motion that the clip does not show. The baseline learns both;
preference alignment has something to unlearn that does not come from lack of capacity alone.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from apo.flow import noised, shift_sigma, velocity
from apo.interfaces import T
from apo.io.files import write_tensors
from apo.terminal import progress
from apo.world import flaws, render
from apo.world.build.loop import muon_and_adamw, train
from apo.world.grammar import describe

CLIPS, FLAWED, MISCAPTIONED, UNPROMPTED = 8192, 0.2, 0.12, 0.1  # more clips: lower loss on new ones, worse videos
BATCH, BOUNDARY, SHIFT = 24, 0.9, 5.0
PHASES = {"high": [(10_000, 2e-3)], "low": [(14_000, 2e-3), (3_000, 1e-3)]}  # steps and rate of each cosine
SPANS = {"high": (BOUNDARY, 1.0), "low": (0.0, BOUNDARY)}


def clip_for_training(index: int) -> tuple[Tensor, str, Tensor]:
    """Video (3, F, 64, 64) in [-1, 1], caption, and weight (F, 8, 8) that is 5 in the digit's latent cells."""
    rng = np.random.default_rng([13, index])
    clip = render.random_clip(rng)
    video, prompt, kind = render.render(clip), describe(clip.meaning), rng.random()
    planted = flaws.PLANTED[clip.meaning.domain]
    if kind < FLAWED:
        video = planted[rng.integers(len(planted))](clip, rng)
    elif kind < FLAWED + MISCAPTIONED:
        video = flaws.misdirect(clip, rng)
    weight = torch.ones(render.FRAMES, 8, 8)
    if clip.meaning.domain == "digit":
        mask = (video.float() - render.gradient(clip.background)).abs().amax(1) > 20
        weight += 4 * torch.nn.functional.max_pool2d(mask.float(), 8)
    return video.float().movedim(1, 0) / 127.5 - 1, prompt, weight


@torch.no_grad()
def encode_clips(path: Path, vae: AutoencoderKLWan, indices: range) -> None:
    """Normalised latents, conditions, weights and captions of some clips, written to `path` unless it is there."""
    if path.exists():
        return
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    parts, prompts = {"latent": [], "image": [], "weight": []}, []
    for start in progress(indices[::16], path.stem):
        videos, texts, weights = zip(*(clip_for_training(i) for i in range(start, start + 16)))
        video = torch.stack(videos)
        first = torch.cat([video[:, :, :1], torch.zeros_like(video[:, :, 1:])], 2)
        latent, image = ((vae.encode(torch.cat([video, first])).latent_dist.mode() - mean) / std).chunk(2)
        mask = torch.zeros_like(image[:, :4])
        mask[:, :, 0] = 1
        cells = torch.stack(weights)
        cells = torch.cat([cells[:, :1], cells[:, 1:].unflatten(1, (-1, 4)).amax(2)], 1)[:, None]
        for key, value in zip(parts, (latent, torch.cat([mask, image], 1), cells)):
            parts[key].append(value.bfloat16())
        prompts += texts
    write_tensors(path, {key: torch.cat(value) for key, value in parts.items()}, {"prompts": json.dumps(prompts)})


def load_clips(paths: list[Path], encode_text) -> dict[str, Tensor]:
    """What `encode_clips` wrote, with `text` (unique captions and the empty one last) and each clip's index into it."""
    parts, prompts = [load_file(path) for path in paths], []
    for path in paths:
        with safe_open(path, "pt") as file:
            prompts += json.loads(file.metadata()["prompts"])
    unique = [*sorted(set(prompts)), ""]
    place = {prompt: i for i, prompt in enumerate(unique)}
    text = torch.cat([encode_text(unique[i : i + 64]) for i in range(0, len(unique), 64)])
    clips = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return clips | {"text": text, "prompt": torch.tensor([place[prompt] for prompt in prompts])}


def stratified_timesteps(rng: torch.Generator, size: int, low: float, high: float) -> Tensor:
    """(size,) timesteps, one from each of `size` equal shares of the schedule of shift 5 between low ·
    T and high · T.
    """
    inverse = [shift_sigma(torch.tensor(edge), 1 / SHIFT).item() for edge in (low, high)]
    u = (torch.arange(size) + torch.rand(size, generator=rng)) / size
    return T * shift_sigma(inverse[0] + (inverse[1] - inverse[0]) * u, SHIFT)


def loss(model: WanTransformer3DModel, clips: dict[str, Tensor], step: int, span: tuple[float, float]) -> Tensor:
    """Weighted flow-matching loss of optimizer step `step` over noise levels in `span`."""
    rng = torch.Generator().manual_seed(17 + step)
    index = torch.randint(len(clips["prompt"]), (BATCH,), generator=rng)
    prompt = clips["prompt"][index]
    prompt = torch.where(torch.rand(BATCH, generator=rng) < UNPROMPTED, len(clips["text"]) - 1, prompt)
    x_0 = clips["latent"][index].float()
    noise = torch.randn(x_0.shape, generator=rng)
    t = stratified_timesteps(rng, BATCH, *span)
    hidden = torch.cat([noised(x_0, noise, t), clips["image"][index].float()], 1)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(hidden, t, clips["text"][prompt], return_dict=False)[0]
    weight = clips["weight"][index].float()
    error = (predicted.float() - velocity(x_0, noise)).square()
    return (weight * error).sum() / (weight.sum() * x_0.shape[1])


def fit(name: str, folder: Path, model: WanTransformer3DModel, clips: dict) -> WanTransformer3DModel:
    """Trains the expert `name` phase by phase, each from where the last one ended; returns the mean of the phases'
    ends.
    """
    ends = []
    for phase, (steps, rate) in enumerate(PHASES[name]):
        model = fit_phase(f"{name}-{phase}", folder, model, clips, SPANS[name], steps, rate)
        ends.append({key: value.clone() for key, value in model.state_dict().items()})
    model.load_state_dict({key: torch.stack([end[key] for end in ends]).mean(0) for key in ends[0]})
    return model


def fit_phase(name: str, folder: Path, model: WanTransformer3DModel, clips: dict, span, steps: int, rate: float):
    """One cosine of the learning rate; returns the average of the weights (EMA, 0.998)."""
    matrices = [p for k, p in model.named_parameters() if k.startswith("blocks.") and p.ndim == 2]
    optimizers = muon_and_adamw(model, matrices, rate)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    train(
        name,
        folder,
        model,
        optimizers,
        steps,
        lambda step: loss(model, clips, step, span),
        {"ema": ema},
        after=lambda step: ema.update_parameters(model),
        save_every=250,
    )
    return ema.module
