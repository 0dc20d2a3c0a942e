"""Checkpoints that a test needs on the disk, without a run."""

from pathlib import Path

import torch

from apo.modules import checkpoints


def content(step: int, **more) -> dict:
    """The least that a checkpoint holds."""
    weights = {
        "state_dict": {"policy.lora_A.weight": torch.full((2, 3), float(step))},
        "optimizer_states": [{"state": {}}],
    }
    return {"global_step": step, "loops": {}, "lr_schedulers": [], "pytorch-lightning_version": "2.6"} | weights | more


def leave_checkpoint(folder: Path, step: int, tensors: str | None = None, name: str = checkpoints.LAST, **more) -> Path:
    """folder/checkpoints/<name>. tensors: of a sharded one, the folder beside it."""
    path = folder / "checkpoints" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    if tensors is not None:
        (path.parent / tensors).mkdir()
        (path.parent / tensors / ".metadata").write_bytes(b"described")
        more |= {"tensors": tensors, "files": checkpoints.digests(path.parent / tensors)}
    checkpoints.write(content(step, **more), path)
    return path
