"""A colour for each class."""
import colorsys
from collections.abc import Sequence
from typing import Any

Color = tuple[int, int, int]        # RGB, 0 to 255
TURN = 0.618034         # of the colour wheel from one class to the next: the golden section never comes near itself


def palette_of(said: Any, count: int) -> tuple[Color, ...]:
    """The colours that a data set has, if it has enough, or others that differ.

    Args:
        said: (r, g, b) of each class; anything else, such as None or mmdet's 'random', where it has none.
        count: of classes.
    """
    if isinstance(said, Sequence) and not isinstance(said, str) and len(said) >= count:
        return tuple((int(r), int(g), int(b)) for r, g, b in said[:count])
    return tuple(_color(i) for i in range(count))


def _color(i: int) -> Color:
    rgb = colorsys.hsv_to_rgb(0.02 + i * TURN % 1, (0.85, 0.65)[i // 7 % 2], (0.95, 0.75)[i // 14 % 2])
    r, g, b = (round(255 * part) for part in rgb)
    return r, g, b
