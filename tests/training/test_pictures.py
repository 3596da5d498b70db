"""Pictures of countdown questions: whoever knows the font can read them."""

from itertools import combinations

import numpy as np

from training.data.countdown import orders, reachable
from training.data.pictures import CELL, HEIGHT, TILES, WIDTH, cells, draw, glyph


def read(line: np.ndarray) -> str:
    """The digits of a line of cells, found by laying each glyph on each place of each cell."""
    said = ""
    for left in range(0, line.shape[1], CELL):
        ink = line[:, left : left + CELL] > 150
        said += "".join(digit for digit in "0123456789" if _holds(ink, glyph(digit)))
    return said


def _holds(ink: np.ndarray, shape: np.ndarray) -> bool:
    return any(
        np.array_equal(np.pad(shape, ((row, CELL - 7 - row), (column, CELL - 5 - column))), ink)
        for row in range(CELL - 6)
        for column in range(CELL - 4)
    )


def test_the_numbers_are_in_the_picture():
    for numbers in orders(held=False)[::60]:
        target = reachable(numbers)[-1]
        picture = draw(numbers, target)
        assert picture.shape == (HEIGHT, WIDTH) and picture.dtype == np.uint8
        tiles = [picture[2 * CELL :, column * CELL : (column + 2) * CELL] for column in TILES]
        assert read(picture[:CELL]) == str(target)
        assert tuple(int(read(tile)) for tile in tiles) == numbers


def test_digits_differ_by_more_than_a_speck():
    assert min((glyph(a) != glyph(b)).sum() for a, b in combinations("0123456789", 2)) >= 3


def test_the_same_question_is_the_same_picture_and_place_varies_between_questions():
    assert (draw((3, 5, 8), 18) == draw((3, 5, 8), 18)).all()
    first = {tuple(np.argwhere(draw((3, 5, 8), target)[2 * CELL :, : 2 * CELL] > 150)[0]) for target in range(10, 40)}
    assert len(first) > 5


def test_cells_are_told_as_they_are_drawn():
    for numbers in orders(held=False)[::60]:
        target = reachable(numbers)[-1]
        picture, told = draw(numbers, target), cells(numbers, target)
        for cell in range(HEIGHT * WIDTH // CELL**2):
            row, column = (CELL * part for part in divmod(cell, WIDTH // CELL))
            said = read(picture[row : row + CELL, column : column + CELL])
            number, digit = told.get(cell, ("", 0))
            assert said == number[digit : digit + 1]
