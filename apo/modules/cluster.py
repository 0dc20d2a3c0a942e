"""How processes share a model, as far as numbers say: needs no process group, no Lightning and no torch."""


def group_size(shard: int | str, nodes: int, devices: int) -> int:
    """Processes that hold the weights together: `node`, `all` or a number; ValueError unless they divide all of them."""
    size = {"node": devices, "all": nodes * devices}.get(shard, shard)
    if not isinstance(size, int) or size < 1 or nodes * devices % size:
        raise ValueError(f"trainer.shard={shard}: give node, all or a divisor of the {nodes} x {devices} processes")
    return size
