"""A Wan model that is sampled from and not trained."""

from apo.policies.model import LoRA, WanModel
from apo.policies.wan import WanPolicy


def sampling_policy(model: WanModel, lora: LoRA | None = None, offload: bool = False) -> WanPolicy:
    """The base alone, or with room for adapters of `lora` (rank, alpha, targets), which `load_adapter` then reads.

    offload: VAE and text encoder stay in CPU memory, see `WanCodec`.
    """
    policy = WanPolicy(model, lora, adapter=None, seed=0, gradient_checkpointing=False, offload=offload)
    return policy.eval().requires_grad_(False)
