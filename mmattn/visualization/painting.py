"""Predictions painted into images of OpenCV at their full resolution, much faster than figures are drawn.

Images are (H, W, 3) uint8 BGR, colours (r, g, b). What is painted is seen on any background: lines have a dark edge,
texts stand on a plate of their colour, inside of the image.
"""
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from mmattn.visualization.colors import Color

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]     # left, top, right, bottom

OPACITY = 0.5           # of masks
DARK = (20, 20, 20)
LEAST = 0.002           # share of an image from which on a class is in its legend


def paint_instances(image: Image, boxes: NDArray[Any], texts: Sequence[str], colors: Sequence[Color],
                    masks: NDArray[np.bool_] | None = None) -> Image:
    """Boxes with texts, and masks.

    Args:
        image: stays as it is.
        boxes: (N, 4) (left, top, right, bottom) in pixels, the most important first, which ends on top.
        texts: of each box.
        colors: of each box.
        masks: (N, H, W).

    Returns:
        a new image.
    """
    canvas = np.ascontiguousarray(image).copy()
    width = line_width(canvas)
    corners = [_inside(box, canvas) for box in boxes]
    for i in reversed(range(len(corners))):
        if masks is not None:
            _cover(canvas, masks[i], colors[i], width)
    for i in reversed(range(len(corners))):
        left, top, right, bottom = corners[i]
        for color, thickness in ((DARK, width + 2), (colors[i], width)):
            cv2.rectangle(canvas, (left, top), (right, bottom), color[::-1], thickness)
    taken: list[Box] = []
    for box, text, color in zip(corners, texts, colors):
        plate = _plate(text, color, text_height(canvas))
        taken.append(_place(box, plate, canvas, taken))
    for i in reversed(range(len(taken))):
        _put(canvas, _plate(texts[i], colors[i], text_height(canvas)), taken[i])
    return canvas


def paint_label_map(image: Image, label_map: NDArray[Any], classes: Sequence[str], palette: Sequence[Color]) -> Image:
    """The classes of a semantic segmentation, with a line between them and a legend of those that are there.

    Args:
        image: stays as it is.
        label_map: (H, W) numbers of classes.
        classes: their names.
        palette: their colours.

    Returns:
        a new image, whose lower edge the legend is on.
    """
    colors = np.array(palette, np.uint8).reshape(-1, 3)[:, ::-1]
    blended = cv2.addWeighted(np.ascontiguousarray(image), 1 - OPACITY, colors[label_map], OPACITY, 0)
    canvas = np.asarray(blended, np.uint8)
    canvas[_borders(label_map, line_width(canvas))] = DARK
    counts = np.bincount(label_map.ravel(), minlength=len(classes))
    present = [i for i in counts.argsort()[::-1] if counts[i] > LEAST * label_map.size]
    _legend(canvas, [(classes[i], palette[i]) for i in present])
    return canvas


def paint_texts(image: Image, texts: Sequence[str], colors: Sequence[Color]) -> Image:
    """Texts below each other in the upper left corner, in a new image.

    Args:
        image: stays as it is.
        texts: the first one on top; those below the image are left out.
        colors: of each text.
    """
    canvas, top = np.ascontiguousarray(image).copy(), 0
    for text, color in zip(texts, colors):
        plate = _plate(text, color, text_height(canvas))
        _put(canvas, plate, (0, top, 0, 0))
        top += plate.shape[0]
    return canvas


def line_width(image: Image) -> int:
    """Of boxes and outlines, in pixels."""
    return max(1, round(min(image.shape[:2]) / 300))


def text_height(image: Image) -> int:
    """Size of the letters in pixels: larger in larger images, and small enough for the shorter side."""
    return int(np.clip(round(min(image.shape[:2]) / 36), 9, 40))


def _inside(box: NDArray[Any], image: Image) -> Box:
    """The pixels that a box begins and ends in, within the image."""
    height, width = image.shape[:2]
    left, top, right, bottom = (int(np.clip(round(float(at)), 0, side - 1))
                                for at, side in zip(box, (width, height, width, height)))
    return left, top, right, bottom


def _cover(canvas: Image, mask: NDArray[np.bool_], color: Color, width: int) -> None:
    """A mask, translucent, with an outline."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    canvas[mask] = (canvas[mask] * (1 - OPACITY) + np.array(color[::-1]) * OPACITY).astype(np.uint8)
    cv2.drawContours(canvas, outlines, -1, color[::-1], width)


def _borders(label_map: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """(H, W): where another class begins."""
    differs = np.zeros(label_map.shape, np.uint8)
    differs[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    differs[1:] |= label_map[1:] != label_map[:-1]
    return cv2.dilate(differs, np.ones((width, width), np.uint8)).astype(bool)


def _place(box: Box, plate: Image, canvas: Image, taken: Sequence[Box]) -> Box:
    """Where a plate goes: the first place where it hides no other one, or as little of them as possible."""
    places = _places(box, plate.shape[:2], canvas.shape[:2])
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _places(box: Box, size: Sequence[int], within: Sequence[int]) -> Iterator[Box]:
    """Above a box, below it and into it, at its left and right; all inside of the image."""
    left, top, right, bottom = box
    height, width = size
    for at in (top - height, bottom + 1, top, bottom - height + 1):
        for x in (left, right - width + 1):
            x, y = max(0, min(x, within[1] - width)), max(0, min(at, within[0] - height))
            yield x, y, x + width, y + height


def _overlap(one: Box, other: Box) -> int:
    """How many pixels two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _put(canvas: Image, plate: Image, place: Box) -> None:
    """A plate where it goes, cut at the right and bottom where the image is smaller."""
    left, top = place[:2]
    target = canvas[top:top + plate.shape[0], left:left + plate.shape[1]]
    target[:] = plate[:target.shape[0], :target.shape[1]]


@lru_cache(4096)
def _plate(text: str, color: Color, size: int) -> Image:
    """A text on its colour, in white or black, whichever is told from it more easily."""
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    font = _font(size)
    left, _, right, _ = font.getbbox(text)
    ascent, descent = font.getmetrics()
    pad = max(1, size // 6)
    plate = Pillow.new('RGB', (int(right - left) + 2 * pad + 2, ascent + descent + 2), color)
    draw = ImageDraw.Draw(plate)
    draw.rectangle((0, 0, plate.width - 1, plate.height - 1), outline=DARK)
    draw.text((1 + pad - left, 1), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)
    return np.asarray(plate)[..., ::-1]


@lru_cache(64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'), size)


def _legend(canvas: Image, entries: Sequence[tuple[str, Color]]) -> None:
    """Plates side by side along the lower edge, in as many rows as they need, but not above the middle."""
    rows: list[list[Image]] = []
    filled = canvas.shape[1] + 1
    for name, color in entries:
        plate = _plate(name, color, text_height(canvas))
        if filled + plate.shape[1] > canvas.shape[1]:
            rows.append([])
            filled = 0
        rows[-1].append(plate)
        filled += plate.shape[1] + 1
    bottom = canvas.shape[0]
    for row in reversed(rows[:canvas.shape[0] // 2 // (rows[0][0].shape[0] + 1)] if rows else []):
        left, bottom = 0, bottom - row[0].shape[0]
        for plate in row:
            _put(canvas, plate, (left, bottom, 0, 0))
            left += plate.shape[1] + 1
        bottom -= 1
