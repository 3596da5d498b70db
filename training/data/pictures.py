"""The countdown question as a picture: the target above, the three numbers on tiles below, grey on black.

Where digits sit and how bright they are varies with the question, so that no patch stands for a digit by itself; the
same question is always the same picture.
"""

import random

import numpy as np

from training.data.countdown import Numbers

HEIGHT, WIDTH = 24, 64
TILES_TOP, TILE_HEIGHT, TILE_WIDTH = 11, 13, 20
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
    rng = random.Random(f"picture/{target}/{','.join(map(str, numbers))}")
    image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    _write(image[: TILES_TOP - 1, 1 : WIDTH - 1], str(target), rng)
    for place, number in enumerate(numbers):
        left = 1 + place * (TILE_WIDTH + 1)
        tile = image[TILES_TOP : TILES_TOP + TILE_HEIGHT, left : left + TILE_WIDTH]
        shade = rng.randint(60, 110)
        tile[[0, -1], :], tile[:, [0, -1]] = shade, shade
        _write(tile[1:-1, 1:-1], str(number), rng)
    return image


def glyph(digit: str) -> np.ndarray:
    """A digit's pixels, bool [7, 5]."""
    return np.array([[pixel == "#" for pixel in row] for row in _GLYPHS[digit].split()])


def _write(box: np.ndarray, text: str, rng: random.Random) -> None:
    """Digits, a pixel apart, anywhere in the box, which is a view of the picture."""
    word = np.concatenate([np.pad(glyph(digit), ((0, 0), (0, 1))) for digit in text], axis=1)[:, :-1]
    (height, width), (rows, columns) = word.shape, box.shape
    row, column = rng.randint(0, rows - height), rng.randint(0, columns - width)
    box[row : row + height, column : column + width][word] = rng.randint(170, 255)
