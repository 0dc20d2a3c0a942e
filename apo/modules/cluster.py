"""How processes share a model, as far as numbers say: needs no process group, no Lightning and no torch."""

from apo.errors import UserError

ACCELERATORS = ("cpu", "gpu", "cuda", "auto")


def require_accelerator(accelerator: str, devices: int, there: int) -> None:
    """UserError for one that is not known, or of which this machine has not so many. there: GPUs that torch sees."""
    if accelerator not in ACCELERATORS:
        raise UserError(f"trainer.accelerator={accelerator}: give one of {', '.join(ACCELERATORS)}")
    if accelerator in ("gpu", "cuda") and there < devices:
        raise UserError(
            f"trainer.accelerator={accelerator} trainer.devices={devices}: torch sees {there} GPU(s) here; give "
            "trainer=cpu, fewer devices, or install the torch build of your GPU's driver"
        )


def group_size(shard: int | str, nodes: int, devices: int) -> int:
    """Processes that hold the weights together: `node`, `all` or a number; ValueError unless they divide all of them."""
    size = {"node": devices, "all": nodes * devices}.get(shard, shard)
    if not isinstance(size, int) or size < 1 or nodes * devices % size:
        raise ValueError(f"trainer.shard={shard}: give node, all or a divisor of the {nodes} x {devices} processes")
    return size
