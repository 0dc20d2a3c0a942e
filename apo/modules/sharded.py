"""`trainer=fsdp`: Lightning's FSDP2 strategy with checkpoints of the trained part alone, which any number of processes resumes."""

import secrets
import shutil
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.distributed.checkpoint.metadata import Metadata
from torch.optim import Optimizer

PATIENCE = timedelta(hours=4)  # of ranks for one that still reads weights from a shared disk, or downloads them; torch has 10 to 30 minutes


class ShardedStrategy(ModelParallelStrategy):
    """Weights are spread over groups of `shard` processes and replicated over the groups; gradients are averaged over all.

    Lightning's two axes are used for this: its data_parallel axis replicates, its tensor_parallel axis shards.
    A checkpoint is a file as of any other strategy, but for the tensors: those stand in a folder beside it, which it names.
    """

    def __init__(self, shard: int, processes: int, backend: str | None):
        super().__init__(processes // shard, shard, process_group_backend=backend, timeout=PATIENCE)
        self.newest: str | None = None  # the folder of the last checkpoint that was written or read

    @property
    def mesh(self):
        """What FSDP2 shards over: (groups, processes of a group), or the only group."""
        return self.device_mesh if self.device_mesh.size(0) > 1 else self.device_mesh["tensor_parallel"]

    def setup(self, trainer: L.Trainer) -> None:
        for group in distributed_c10d._world.pg_map:  # under NCCL those of meshes come with torch's ten minutes
            distributed_c10d._set_pg_timeout(PATIENCE, group)
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict:
        """By the parameters' names: it doesn't matter then which process holds which part."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = {name: optimizer.state[p] for name, p in self.model.named_parameters() if p in optimizer.state}
        return {"state": state, "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]}

    def save_checkpoint(self, checkpoint: dict, filepath, storage_options=None) -> None:
        path = Path(self.broadcast(filepath))
        folder = self.broadcast(f"step_{checkpoint['global_step']}-{secrets.token_hex(4)}")
        if self.is_global_zero:
            for old in path.parent.glob("step_*-*"):  # of checkpoints before the last, and of saves that were cut short
                if old.name != self.newest:
                    shutil.rmtree(old, ignore_errors=True)  # a file that is open elsewhere stays on NFS for a while
        self.barrier()
        (optimizer,) = checkpoint.pop("optimizer_states")
        dcp.save({"model": checkpoint.pop("state_dict"), "optimizer": optimizer["state"]}, checkpoint_id=path.parent / folder)
        if self.is_global_zero:
            torch.save(checkpoint | {"tensors": folder, "optimizer_groups": optimizer["groups"]}, path)
        self.newest = folder

    def load_checkpoint(self, checkpoint_path, weights_only=None) -> dict:
        path = Path(checkpoint_path)
        checkpoint = torch.load(path, weights_only=False, mmap=True)  # of what all ranks' candidates take, each reads its own
        self.newest = checkpoint["tensors"]
        (optimizer,) = self.optimizers
        folder, parameters = path.parent / self.newest, dict(self.model.named_parameters())
        found = state_like(dcp.FileSystemReader(folder).read_metadata(), parameters)
        dcp.load({"model": self.model.state_dict(), "optimizer": found}, checkpoint_id=folder)
        optimizer.state.update({parameters[name]: values for name, values in found.items()})
        for group, values in zip(optimizer.param_groups, checkpoint["optimizer_groups"], strict=True):
            group.update(values)
        return checkpoint


def state_like(stored: Metadata, parameters: dict[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """Room for an optimizer's state as it was stored: a parameter that had no gradient yet has none."""
    state = defaultdict(dict)
    for key, tensor in stored.state_dict_metadata.items():
        if key.startswith("optimizer."):
            name, part = key.removeprefix("optimizer.").rsplit(".", 1)
            like, dtype = parameters[name].detach(), tensor.properties.dtype
            alike = tensor.size == like.shape  # else a number, such as Adam's step
            state[name][part] = torch.zeros_like(like, dtype=dtype) if alike else torch.zeros(tensor.size, dtype=dtype)
    return state
