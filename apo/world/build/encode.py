"""Text embeddings as WanImageToVideoPipeline makes them, without loading a pipeline."""

import torch
from diffusers import WanImageToVideoPipeline
from torch import Tensor

MAX_LENGTH = 16


@torch.no_grad()
def text_embeddings(tokenizer, encoder, prompts: list[str]) -> Tensor:
    """(B, 16, D), zero beyond each prompt's tokens."""
    pipeline = WanImageToVideoPipeline(tokenizer, encoder, vae=None, scheduler=None)
    return pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=MAX_LENGTH, device="cpu")
