"""A tiny model of Qwen3-VL's architecture for the world's rankers: random weights, tokenizer, processor, one folder.

Qwen3VLForConditionalGeneration.from_pretrained and AutoProcessor.from_pretrained load it as they do the real one.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from apo.data.domains import PROMPTS

SEED = 21
PATCH, MERGE, TEMPORAL = 8, 2, 2  # a token of the language model sees 16 x 16 pixels of two frames
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = """{%- set seen = namespace(image=0, video=0) -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if 'video' in part.type -%}
{%- set seen.video = seen.video + 1 -%}
{%- if add_vision_id -%}{{- 'Video ' ~ seen.video ~ ': ' -}}{%- endif -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'image' in part.type -%}
{%- set seen.image = seen.image + 1 -%}
{%- if add_vision_id -%}{{- 'Picture ' ~ seen.image ~ ': ' -}}{%- endif -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
VISION = dict(
    depth=4,
    hidden_size=96,
    num_heads=4,
    intermediate_size=256,
    patch_size=PATCH,
    spatial_merge_size=MERGE,
    temporal_patch_size=TEMPORAL,
    num_position_embeddings=64,
    deepstack_visual_indexes=[2],
    initializer_range=0.05,
)
TEXT = dict(
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=32,
    max_position_embeddings=4096,
    initializer_range=0.05,
    tie_word_embeddings=True,
    rope_parameters={
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs, as Qwen's; the words of the world's prompts are single tokens, every digit is one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [(PROMPTS / f"{name}.txt").read_text() for name in ("digit", "scene")]
    corpus += ["user\nassistant\nVideo : <. seconds>"] * 5
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        padding_side="left",
        additional_special_tokens=list(SPECIAL[1:]),
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Frames of 16 x 16 pixels or more, up to 512 x 512, keep their size."""
    sizes = dict(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=TEMPORAL)
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 16 * 16, "longest_edge": 512 * 512}, **sizes),
        video_processor=Qwen3VLVideoProcessor(
            size={"shortest_edge": 16 * 16, "longest_edge": 40 * 512 * 512}, cap_pixels_per_frame=True, **sizes
        ),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )


def build_vlm(folder: Path, vision: dict | None = None, text: dict | None = None, seed: int = SEED) -> None:
    """Writes the folder. vision, text: changes of the configuration; the same seed gives the same weights."""
    tokenizer = build_tokenizer()
    of = tokenizer.convert_tokens_to_ids
    text = TEXT | dict(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id) | (text or {})
    vision = VISION | dict(out_hidden_size=text["hidden_size"]) | (vision or {})
    config = Qwen3VLConfig(
        vision_config=vision,
        text_config=text,
        tie_word_embeddings=True,
        image_token_id=of("<|image_pad|>"),
        video_token_id=of("<|video_pad|>"),
        vision_start_token_id=of("<|vision_start|>"),
        vision_end_token_id=of("<|vision_end|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
