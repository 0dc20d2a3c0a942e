"""The text side keeps every word of the grammar apart."""

import pytest
import torch
from torch.testing import assert_close

from apo.world.build.text import build_encoder, build_tokenizer, sentences


@pytest.fixture(scope="module")
def encoded():
    """Tokens (N, L), their mask and encodings (N, L, 48) of all sentences."""
    tokenizer = build_tokenizer()
    batch = tokenizer(sentences(), padding=True, return_tensors="pt")
    encodings = build_encoder(len(tokenizer))(**batch).last_hidden_state
    return batch.input_ids, batch.attention_mask, encodings * batch.attention_mask[..., None]


def test_every_word_is_one_token_and_decodes_to_itself():
    tokenizer = build_tokenizer()
    for sentence in sentences():
        tokens = tokenizer(sentence).input_ids
        assert len(tokens) == len(sentence.split()) + 1  # </s>
        assert tokenizer.decode(tokens, skip_special_tokens=True) == sentence


def test_other_words_are_spelled_and_an_empty_prompt_is_one_token():
    tokenizer = build_tokenizer()
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]
    assert tokenizer.decode(tokenizer("A bike, 1080p").input_ids, skip_special_tokens=True) == "A bike, 1080p"


def test_sentences_that_differ_in_one_word_differ_clearly_at_that_word(encoded):
    tokens, mask, encodings = encoded
    assert encodings[mask.bool()].square().mean().sqrt().sub(1).abs() < 1e-3  # RMS 1: a token's norm is 6.9
    closest = float("inf")
    for row in range(len(tokens)):
        differs = tokens != tokens[row]
        for other in torch.where(differs.sum(1) == 1)[0]:
            position = differs[other].nonzero()[0, 0]
            closest = min(closest, (encodings[row, position] - encodings[other, position]).norm().item())
    assert closest > 5  # 6.2 when this was written


def test_every_sentence_has_its_own_mean_encoding(encoded):
    _, mask, encodings = encoded
    mean = encodings.sum(1) / mask.sum(1, keepdim=True)
    distances = torch.cdist(mean, mean) + 9 * torch.eye(len(mean))
    assert distances.min() > 0.5  # 0.75 when this was written


def test_the_encoder_is_the_same_on_every_build_whatever_the_seed():
    torch.manual_seed(0)
    first = build_encoder(100).state_dict()
    before = torch.get_rng_state()
    assert_close(build_encoder(100).state_dict(), first, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
