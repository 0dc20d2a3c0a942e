from itertools import product

import pytest

from apo.world.grammar import COLOURS, DIGITS, DIRECTIONS, PHOTOS, SPEEDS, Meaning, describe, parse

MOTIONS = list(product(DIRECTIONS, SPEEDS))
MEANINGS = [Meaning(*m, digit=d, colour=c) for m, d, c in product(MOTIONS, range(10), COLOURS)]
MEANINGS += [Meaning(*m, photo=p) for m, p in product(MOTIONS, PHOTOS)]


def test_parse_undoes_describe():
    assert [parse(describe(meaning)) for meaning in MEANINGS] == MEANINGS


def test_every_meaning_has_its_own_sentence():
    assert len({describe(meaning) for meaning in MEANINGS}) == len(MEANINGS) == 8 * (10 * 6 + 2)


def test_the_sixteen_motions_have_sixteen_velocities():
    assert len({Meaning(*motion).velocity for motion in MOTIONS}) == len(MOTIONS) == 8


def test_image_coordinates_point_down():
    assert Meaning("up", "quickly").velocity == (-2, 0)


@pytest.mark.parametrize("word", ["the", "red", "digit", "five", "moves", "up", "quickly"])
def test_a_wrong_word_is_an_error_that_shows_the_sentence_and_a_right_one(word):
    sentence = "the red digit five moves up quickly".replace(word, "purple", 1)
    with pytest.raises(ValueError, match=f"'{sentence}' is not a sentence.*write"):
        parse(sentence)


@pytest.mark.parametrize("word", ["the", "camera", "pans", "right", "slowly", "over", "temple"])
def test_a_wrong_word_about_a_scene_is_an_error(word):
    with pytest.raises(ValueError, match="is not a sentence"):
        parse("the camera pans right slowly over the temple".replace(word, "purple", 1))


def test_digits_are_in_order():
    assert DIGITS.index("seven") == 7
