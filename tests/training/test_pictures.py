"""Pictures of countdown questions: whoever knows the font can read them."""

from itertools import combinations

import numpy as np

from training.data.countdown import orders, reachable
from training.data.pictures import HEIGHT, TILE_WIDTH, TILES_TOP, WIDTH, draw, glyph


def read(box: np.ndarray) -> str:
    """The digits in a part of a picture, from left to right, found by laying each glyph on each place."""
    ink = np.pad(box > 150, 1)
    found = {}
    for digit in "0123456789":
        window = np.pad(glyph(digit), 1)
        for row in range(ink.shape[0] - 8):
            for column in range(ink.shape[1] - 6):
                if (ink[row : row + 9, column : column + 7] == window).all():
                    found[column] = digit
    return "".join(found[column] for column in sorted(found))


def test_the_numbers_are_in_the_picture():
    for numbers in orders(held=False)[::60]:
        target = reachable(numbers)[-1]
        picture = draw(numbers, target)
        assert picture.shape == (HEIGHT, WIDTH) and picture.dtype == np.uint8
        tiles = [picture[TILES_TOP + 1 :, 2 + i * (TILE_WIDTH + 1) :][:11, : TILE_WIDTH - 2] for i in range(3)]
        assert read(picture[: TILES_TOP - 1]) == str(target)
        assert tuple(int(read(tile)) for tile in tiles) == numbers


def test_digits_differ_by_more_than_a_speck():
    assert min((glyph(a) != glyph(b)).sum() for a, b in combinations("0123456789", 2)) >= 3


def test_the_same_question_is_the_same_picture_and_place_varies_between_questions():
    assert (draw((3, 5, 8), 18) == draw((3, 5, 8), 18)).all()
    first = {tuple(np.argwhere(draw((3, 5, 8), target)[TILES_TOP + 1 :, 2:20] > 150)[0]) for target in range(10, 40)}
    assert len(first) > 5
