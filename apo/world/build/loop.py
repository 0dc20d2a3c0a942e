"""A resumable training loop with a progress bar, shared by the steps of `make world`."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_info
from torch import nn

from apo.io.files import replacing
from apo.terminal import progress


def warmup_cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning rate factor: linear warm-up, then a cosine to zero."""
    return min((step + 1) / warmup, 1.0) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())


def muon_and_adamw(
    model: nn.Module, matrices: list[nn.Parameter], rate: float, decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon, with weight decay, for some matrices of a model; AdamW for the rest."""
    rest = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    name: str,
    folder: Path,
    model: nn.Module,
    optimizers: list,
    steps: int,
    loss_at: Callable[[int], torch.Tensor],
    extra: dict[str, nn.Module] | None = None,
    after: Callable[[int], None] = lambda step: None,
    save_every: int = 100,
    clip: float = 1.0,
) -> None:
    """Minimise loss_at(step), which depends on nothing but the step and the weights; resumes from folder/name.pt.

    extra: further modules whose state travels with the checkpoint (an average of the weights, say).
    """
    path = folder / f"{name}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    extra = extra or {}
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    start = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        for key, module in extra.items():
            module.load_state_dict(state[key])
        start = state["step"]
    with (folder / f"{name}.log").open("a") as log, progress(range(start, steps), name, steps, initial=start) as bar:
        log.write(f"# {name}: steps {start}..{steps}, {torch.get_num_threads()} threads\n")
        began, running = time.time(), None
        for step in bar:
            for optimizer, rates in zip(optimizers, base_rates):
                for group, rate in zip(optimizer.param_groups, rates):
                    group["lr"] = rate * warmup_cosine(step, steps)
            loss = loss_at(step)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            after(step)
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
            bar.set_postfix(loss=f"{running:.4g}")
            if (step + 1) % save_every == 0 or step + 1 == steps:
                state = {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step + 1,
                }
                state |= {key: module.state_dict() for key, module in extra.items()}
                with replacing(path) as partial:
                    torch.save(state, partial)
                log.write(f"{name} step {step + 1} loss {running:.5g} seconds {time.time() - began:.0f}\n")
                log.flush()
    rank_zero_info(f"{name}: done")
