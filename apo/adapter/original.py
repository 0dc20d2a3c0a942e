"""The original Wan code's names of a transformer's parts, which ComfyUI shares.

The mapping that matters beside this one: `high_noise` is diffusers' `transformer` (t >= boundary), `low_noise` its
`transformer_2`.
"""

import re

BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
PARTS = {"attn1": "self_attn", "attn2": "cross_attn"}
LAYERS = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "norm_added_k": "norm_k_img",
}
OF_BLOCK = {"ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2", "norm2": "norm3"} | {
    f"{part}.{layer}": f"{original}.{name}" for part, original in PARTS.items() for layer, name in LAYERS.items()
}
AROUND = {
    "patch_embedding": "patch_embedding",
    "proj_out": "head.head",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
}


def module_name(module: str) -> str | None:
    """A module by its diffusers name; None if the original code has no such module."""
    match = BLOCK.fullmatch(module)
    if match is None:
        return AROUND.get(module)
    name = OF_BLOCK.get(match[2])
    return None if name is None else f"blocks.{match[1]}.{name}"


def weight_name(key: str) -> str:
    """A weight of the transformer by its diffusers key; ValueError if the original code has none such."""
    module, _, kind = key.rpartition(".")
    if kind == "scale_shift_table":
        return f"{module}.modulation" if module else "head.modulation"
    if (name := module_name(module)) is None:
        raise ValueError(f"{key}: the original Wan code has no such weight")
    return f"{name}.{kind}"
