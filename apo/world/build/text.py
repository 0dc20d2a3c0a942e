"""Step 2 of `make world`: the world's tokenizer and its frozen text encoder, in the style of Wan's UMT5.

Neither is trained: the vocabulary is the grammar's words, and a seeded random UMT5 already keeps every word apart
from every other (tests/world/test_text.py), which is all that the transformer's cross-attention needs.
"""

import string
from itertools import product
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from apo.world.grammar import COLOURS, DIGITS, DIRECTIONS, PHOTOS, SPEEDS, Meaning, describe

TEXT_DIM, SEED = 48, 12
SPECIAL = ("<pad>", "</s>", "<unk>")  # UMT5's order
CONFIG = dict(
    d_model=TEXT_DIM,
    d_kv=12,
    d_ff=96,
    num_layers=2,
    num_heads=4,
    relative_attention_num_buckets=16,
    relative_attention_max_distance=32,
    dropout_rate=0.0,
    is_encoder_decoder=False,
    use_cache=False,
    pad_token_id=0,
    eos_token_id=1,
    decoder_start_token_id=0,
)


def sentences() -> list[str]:
    """Every sentence of the grammar, in a fixed order."""
    motions = [dict(direction=direction, speed=speed) for direction, speed in product(DIRECTIONS, SPEEDS)]
    digits = [Meaning(**m, digit=d, colour=c) for c, d, m in product(COLOURS, range(len(DIGITS)), motions)]
    scenes = [Meaning(**m, photo=p) for p, m in product(PHOTOS, motions)]
    return [describe(meaning) for meaning in digits + scenes]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the grammar; any other word is spelled in characters, as a user's own prompts need."""
    words = sorted({word for sentence in sentences() for word in sentence.split()})
    pieces = [(token, 0.0) for token in SPECIAL]
    pieces += [(f"▁{word}", -1.0) for word in words]
    pieces += [(letter, -20.0) for letter in "▁" + string.ascii_letters + string.digits + string.punctuation]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("<unk>")))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def build_encoder(vocabulary: int) -> UMT5EncoderModel:
    """A frozen UMT5 encoder of width 48, the same weights on every run; leaves the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        encoder = UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, **CONFIG))
    return encoder.eval().requires_grad_(False)


def build_text(folder: Path) -> tuple[PreTrainedTokenizerFast, UMT5EncoderModel]:
    """The tokenizer and the text encoder, also saved to folder/tokenizer and folder/text_encoder."""
    tokenizer = build_tokenizer()
    encoder = build_encoder(len(tokenizer))
    tokenizer.save_pretrained(Path(folder) / "tokenizer")
    encoder.save_pretrained(Path(folder) / "text_encoder")
    return tokenizer, encoder
