"""`trainer=fsdp`: Lightning's FSDP2 strategy with checkpoints of the trained part alone, which any number of processes
resumes.
"""

import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from apo.modules import checkpoints
from apo.modules.tensor_files import TensorReader

TIMEOUT = timedelta(
    hours=4
)  # of ranks for one that still reads weights from a shared disk, or downloads them; torch has 10 to 30 minutes


class ShardedStrategy(ModelParallelStrategy):
    """Weights are spread over groups of `shard` processes and replicated over the groups; gradients are averaged over
    all.

    Lightning's two axes are used for this: its data_parallel axis replicates, its tensor_parallel axis shards.
    A checkpoint is a file as of any other strategy, but for the tensors: those stand in a folder beside it, which it
    names.
    """

    def __init__(self, shard: int, processes: int, backend: str | None):
        super().__init__(processes // shard, shard, process_group_backend=backend, timeout=TIMEOUT)
        self.place, self.kept = Path(), list[str]()  # of checkpoints, and the folders of the last two's tensors

    @property
    def mesh(self):
        """What FSDP2 shards over: (groups, processes of a group), or the only group."""
        return self.device_mesh if self.device_mesh.size(0) > 1 else self.device_mesh["tensor_parallel"]

    def setup(self, trainer: L.Trainer) -> None:
        for group in distributed_c10d._world.pg_map:  # under NCCL those of meshes come with torch's ten minutes
            distributed_c10d._set_pg_timeout(TIMEOUT, group)
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict:
        """By the parameters' names: it doesn't matter then which process holds which part."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = {name: optimizer.state[p] for name, p in self.model.named_parameters() if p in optimizer.state}
        return {
            "state": state,
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        }

    def save_checkpoint(self, checkpoint: dict, filepath, storage_options=None) -> None:
        path = Path(self.broadcast(filepath))
        folder = self.broadcast(f"step_{checkpoint['global_step']}-{secrets.token_hex(4)}")
        (optimizer,) = checkpoint.pop("optimizer_states")
        with refusals(path):
            dcp.save(
                {"model": checkpoint.pop("state_dict"), "optimizer": optimizer["state"]},
                checkpoint_id=path.parent / folder,
            )
        if self.is_global_zero:
            files = {"tensors": folder, "files": checkpoints.digests(path.parent / folder)}
            checkpoints.write(checkpoint | files | {"optimizer_groups": optimizer["groups"]}, path)
        self.place, self.kept = path.parent, [*self.kept, folder][-2:]

    def forget_older(self) -> None:
        """Removes all tensors but those of the last two checkpoints that this process wrote or read."""
        if self.is_global_zero:
            checkpoints.remove_others(self.place, self.kept)

    def load_checkpoint(self, checkpoint_path, weights_only=None) -> dict:
        path = Path(checkpoint_path)
        checkpoint = checkpoints.read(path, mmap=True)  # of what all ranks' candidates take, each reads its own
        self.place, self.kept = path.parent, [checkpoint["tensors"]]
        (optimizer,) = self.optimizers
        reader, parameters = TensorReader(path.parent / checkpoint["tensors"]), dict(self.model.named_parameters())
        model, stored = self.model.state_dict(), reader.read_metadata()
        checkpoints.require_same_tensors(
            {key: value.shape for key, value in model.items()},
            {
                key.removeprefix("model."): value.size
                for key, value in stored.state_dict_metadata.items()
                if key.startswith("model.")
            },
            path,
        )
        found = state_like(stored, parameters)
        dcp.load({"model": model, "optimizer": found}, storage_reader=reader)
        checkpoints.require_finite({"state_dict": local(model), "optimizer": local(found)})
        optimizer.state.update({parameters[name]: values for name, values in found.items()})
        for group, values in zip(optimizer.param_groups, checkpoint["optimizer_groups"], strict=True):
            group.update(values)
        return checkpoint


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Inside, a disk that refuses a rank raises what it raises there, not torch's summary of all ranks."""
    try:
        yield
    except CheckpointException as error:
        for refused, _ in error.failures.values():
            if isinstance(refused, OSError):
                refused.filename = str(path)
                raise refused from None
        raise


def local(value):
    """The parts of nested dicts' tensors that this rank holds."""
    if isinstance(value, dict):
        return {key: local(part) for key, part in value.items()}
    return value.to_local() if isinstance(value, DTensor) else value


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
