"""`trainer=`: the processes of a run and what they share, as objects. Lightning and torch are imported only when they
are needed.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from apo.config.numbers import Null, Processes, Range, Whole
from apo.errors import UserError
from apo.parts import Part, Setting

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.strategies import Strategy

Threads = Annotated[Annotated[int, Range(1, 4096)] | None, Null("for torch's own choice")]


@dataclass
class Cluster(Part):
    """What all options of `trainer=` have.

    devices: processes of a node. threads: of torch, in each. shard: processes that hold one copy of the weights
    together: node, all or a number; None where each holds all. context_parallel: processes that share a video's tokens.
    """

    accelerator: Literal["cpu", "gpu", "cuda", "auto"]
    devices: Processes
    nodes: Processes
    backend: Literal["gloo", "nccl"] | None
    threads: Threads
    gradient_checkpointing: bool
    split_backward: bool
    shard: int | str | None
    context_parallel: Whole
    offload: bool

    def __post_init__(self):
        self.require_layout()

    def require_layout(self) -> None:
        """UserError for numbers of processes that this kind can't have."""
        raise NotImplementedError

    @property
    def processes(self) -> int:
        return self.nodes * self.devices

    def check(self, setting: Setting) -> None:
        self.require_gpus(self.devices)

    def require_gpus(self, count: int) -> None:
        """UserError unless this machine has so many, where the accelerator is one."""
        if self.accelerator not in ("gpu", "cuda"):
            return
        import torch

        if (there := torch.cuda.device_count()) < count:
            raise UserError(
                f"trainer.accelerator={self.accelerator} trainer.devices={count}: torch sees {there} GPU(s) here; give "
                "trainer=cpu, fewer devices, or install the torch build of your GPU's driver"
            )

    def device(self) -> "torch.device":
        """Of this process. torchrun and srun say which of its node's it is."""
        from apo.distributed import device

        return device(self.accelerator, int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))))

    def strategy(self) -> "Strategy | str":
        """Lightning's."""
        raise NotImplementedError

    def lightning(self) -> dict:
        """The arguments of Lightning's Trainer that say where it runs."""
        from apo.modules.tensor_files import WholeFiles

        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": self.strategy(),
            "plugins": [WholeFiles()],
        }


class Unsharded(Cluster):
    """Each process holds all weights and has pairs of its own."""

    def require_layout(self) -> None:
        if self.shard is not None:
            raise UserError(
                f"trainer.shard={self.shard}: each process of this trainer= holds all weights: leave it null, or give "
                "trainer=fsdp"
            )
        if self.context_parallel != 1:
            raise UserError(
                f"trainer.context_parallel={self.context_parallel}: this trainer= gives every process pairs of its "
                "own; set it 1, "
                "or give trainer=fsdp"
            )


class Single(Unsharded):
    """One process."""

    def require_layout(self) -> None:
        super().require_layout()
        if self.processes > 1:
            raise UserError(
                f"trainer.nodes={self.nodes} trainer.devices={self.devices}: this trainer= is for one process, and "
                "there are "
                f"{self.nodes} x {self.devices}: give trainer=fsdp, or trainer=ddp where every device holds "
                "the whole model"
            )

    def strategy(self) -> str:
        return "auto"


class DataParallel(Unsharded):
    """Gradients are averaged over all processes."""

    def strategy(self) -> "Strategy":
        from lightning.pytorch.strategies import DDPStrategy

        from apo.modules.sharded import TIMEOUT

        # a window row trains one expert, so the other one's parameters are unused in that backward
        return DDPStrategy(find_unused_parameters=True, process_group_backend=self.backend, timeout=TIMEOUT)


class Sharded(Cluster):
    """FSDP2: groups of processes hold the weights together."""

    def require_layout(self) -> None:
        if self.shard is None:
            raise UserError(
                "trainer.shard=null: this trainer= needs node, all or a number of processes that hold the weights "
                "together; "
                "or give trainer=ddp, where every device holds the whole model"
            )
        group_size(self.shard, self.nodes, self.devices)
        if self.context_parallel < 1 or self.processes % self.context_parallel:
            raise UserError(
                f"trainer.context_parallel={self.context_parallel}: give a divisor of the {self.nodes} x "
                f"{self.devices} processes, "
                "which share a video's tokens in groups of so many; 1 for none"
            )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if setting.architecture is not None:
            from apo.policies.context import require_divisible

            tokens = setting.architecture.tokens(setting.spec)
            require_divisible(self.context_parallel, setting.architecture.heads, tokens)

    def strategy(self) -> "Strategy":
        from apo.modules.sharded import ShardedStrategy

        return ShardedStrategy(group_size(self.shard, self.nodes, self.devices), self.processes, self.backend)

    def lightning(self) -> dict:
        return super().lightning() | {"plugins": None}  # its checkpoints are folders, which it writes itself


def group_size(shard: int | str, nodes: int, devices: int) -> int:
    """Processes that hold the weights together: `node`, `all` or a number; UserError unless they divide all of them."""
    size = {"node": devices, "all": nodes * devices}.get(shard, shard)
    if not isinstance(size, int) or size < 1 or nodes * devices % size:
        raise UserError(f"trainer.shard={shard}: give node, all or a divisor of the {nodes} x {devices} processes")
    return size
