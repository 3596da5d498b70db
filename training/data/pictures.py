"""The countdown question as a picture: the target above, the three numbers on tiles below, grey on black.

Each digit lies in a cell of 8 x 8 pixels, which is a patch of the tiny encoder; where in its cell, how bright, and in
which columns the target stands varies with the question. The same question is always the same picture.
"""

import random

import numpy as np

from training.data.countdown import Numbers

CELL = 8
HEIGHT, WIDTH = 3 * CELL, 8 * CELL
TILES = (0, 3, 6)
"The column of cells at which a tile begins; each has room for two digits."
_GLYPHS = {  # 5 wide, 7 high
    "0": ".###. #...# #..## #.#.# ##..# #...# .###.",
    "1": "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "3": ".###. #...# ....# ..##. ....# #...# .###.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "5": "##### #.... ####. ....# ....# #...# .###.",
    "6": "..##. .#... #.... ####. #...# #...# .###.",
    "7": "##### ....# ...#. ..#.. ..#.. .#... .#...",
    "8": ".###. #...# #...# .###. #...# #...# .###.",
    "9": ".###. #...# #...# .#### ....# ...#. .##..",
}


def draw(numbers: Numbers, target: int) -> np.ndarray:
    """uint8 [24, 64], 255 is white. Depends on its arguments alone."""
    rng, column = _begin(numbers, target)
    image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    _write(image[:CELL], str(target), column, rng)
    for column, number in zip(TILES, numbers, strict=True):
        tile = image[2 * CELL :, column * CELL : (column + 2) * CELL]
        tile[:] = rng.randint(30, 80)
        _write(image[2 * CELL :], str(number), column, rng)
    return image


def cells(numbers: Numbers, target: int) -> dict[int, tuple[str, int]]:
    """What stands in which cell of the picture, cells counted row by row: cell -> (number, which of its digits)."""
    _, column = _begin(numbers, target)
    last = 2 * (WIDTH // CELL)
    lines = [(column, str(target)), *((last + tile, str(n)) for tile, n in zip(TILES, numbers, strict=True))]
    return {first + i: (text, i) for first, text in lines for i in range(len(text))}


def _begin(numbers: Numbers, target: int) -> tuple[random.Random, int]:
    """(what varies between pictures, the column at which the target begins)."""
    rng = random.Random(f"picture/{target}/{','.join(map(str, numbers))}")
    return rng, rng.randint(0, WIDTH // CELL - len(str(target)))


def glyph(digit: str) -> np.ndarray:
    """A digit's pixels, bool [7, 5]."""
    return np.array([[pixel == "#" for pixel in row] for row in _GLYPHS[digit].split()])


def _write(line: np.ndarray, text: str, column: int, rng: random.Random) -> None:
    """Digits, one a cell, anywhere in it; line: a view of the picture, a cell high."""
    light = rng.randint(170, 255)
    for place, digit in enumerate(text, column):
        row, left = rng.randint(0, CELL - 7), place * CELL + rng.randint(0, CELL - 5)
        line[row : row + 7, left : left + 5][glyph(digit)] = light
