"""Generated scenes: coloured, textured shapes that cover each other, with boxes, masks and semantic maps.

    python -m mmattn.datasets.scenes data/scenes

writes one set of images in two formats at once:

    images/{training,validation}/00000.png
    annotations/instances_{training,validation}.json     COCO: a box and an RLE mask for each visible shape
    annotations/{training,validation}/00000.png          ADE20K: 0 unlabelled, 1 background, 2 and up the classes

Every scene depends on the seed, the split and its number only, so two machines draw the same pixels.
"""
from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from tqdm import tqdm

CLASSES = ('disk', 'square', 'triangle', 'star', 'cross')
SEED = 2026
SPLITS = {'training': 1200, 'validation': 120}
SIZE = (128, 160)       # (height, width) in pixels
SHAPES = (2, 5)         # fewest and most shapes in a scene
RADIUS = (15, 38)       # smallest and largest circumscribed radius in pixels
TILT = 0.3              # largest rotation from upright, in radians
HUE_SPREAD = 0.4        # how far a shape's hue strays from its class's, in steps between classes
VISIBLE = 0.25          # a shape that would leave less than this share of another in sight is left out


def outline(kind: str, center: Sequence[float] | np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Corners of a shape.

    Args:
        kind: one of `CLASSES`.
        center: (x, y) in pixels.
        radius: distance of the farthest corner from the center, in pixels.
        angle: clockwise rotation from upright, in radians.

    Returns:
        (P, 2) float corners, (x, y) in pixels.
    """
    if kind == 'cross':
        arm = np.array([(1, .35), (.35, .35), (.35, 1), (-.35, 1), (-.35, .35), (-1, .35)]) / np.hypot(1, .35)
        corners = np.concatenate([arm, -arm])
    else:
        count, inner = {'disk': (48, 1), 'square': (4, 1), 'triangle': (3, 1), 'star': (10, .45)}[kind]
        start = -np.pi / 4 if kind == 'square' else -np.pi / 2
        turn = start + np.arange(count) * 2 * np.pi / count
        length = np.where(np.arange(count) % 2, inner, 1.0)
        corners = np.stack([np.cos(turn) * length, np.sin(turn) * length], 1)
    cos, sin = np.cos(angle), np.sin(angle)
    return corners @ np.array([[cos, sin], [-sin, cos]]) * radius + center


def texture(rng: np.random.Generator, size: tuple[int, int], hue: float, saturation: float) -> np.ndarray:
    """A surface: two shades of one hue mixed by stripes, checks, waves or a slow ramp, with noise.

    Args:
        rng: source of chance.
        size: (H, W) in pixels.
        hue: place on the colour circle, in turns.
        saturation: 0 grey to 1 pure.

    Returns:
        (H, W, 3) float32 BGR, 0 to 255 but for the noise.
    """
    y, x = np.mgrid[:size[0], :size[1]].astype(np.float32)
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(5, 16), rng.uniform(0, 2 * np.pi)
    u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + phase
    v = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period
    mix = (np.sin(u), np.sign(np.sin(u) * np.sin(v)), np.sin(u) * np.sin(v), np.sin(u / 6))[rng.integers(4)]
    mix = mix[..., None] / 2 + 0.5
    light, dark = (255 * np.array(hsv_to_rgb(hue % 1, saturation, rng.uniform(*shade)))[::-1]
                   for shade in ((0.7, 1.0), (0.45, 0.7)))
    return (light * mix + dark * (1 - mix) + rng.normal(0, 4, (*size, 3))).astype(np.float32)


def scene(split: str, number: int, size: tuple[int, int] = SIZE,
          seed: int = SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        split: a key of `SPLITS`.
        number: which scene of the split.
        size: (height, width) in pixels.
        seed: seed of the whole data set.

    Returns:
        image (H, W, 3) uint8 BGR; labels (N,) indices into `CLASSES`, far to
        near; masks (N, H, W) bool, the visible part of each shape.
    """
    rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
    image = texture(rng, size, rng.random(), rng.uniform(0, 0.25))
    labels: list[int] = []
    visible: list[np.ndarray] = []
    areas: list[int] = []
    for _ in range(rng.integers(SHAPES[0], SHAPES[1] + 1)):
        label = int(rng.integers(len(CLASSES)))
        radius = rng.uniform(*RADIUS)
        center = rng.uniform(0.6 * radius, np.array(size[::-1]) - 0.6 * radius)
        corners = outline(CLASSES[label], center, radius, rng.uniform(-TILT, TILT))
        surface, mask = shape(rng, size, label, corners)
        if any((seen & ~mask).sum() < VISIBLE * area for seen, area in zip(visible, areas)):
            continue                            # it would hide another shape: leave it out
        image = np.where(mask[..., None], surface, image)
        visible = [seen & ~mask for seen in visible] + [mask]
        labels.append(label)
        areas.append(mask.sum())
    return photograph(image), np.array(labels), np.array(visible)


def shape(rng: np.random.Generator, size: tuple[int, int], label: int,
          corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A shape: its surface, (H, W, 3) float32 BGR of the colour of its class, and its mask, (H, W) bool."""
    hue = (label + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) / len(CLASSES)
    surface = texture(rng, size, hue, rng.uniform(0.5, 0.9))
    covered = np.zeros(size, np.uint8)
    cv2.fillPoly(covered, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    return surface, covered > 0


def photograph(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of what was drawn: within the range of a pixel, and a little blurred."""
    return cv2.GaussianBlur(np.clip(image, 0, 255).astype(np.uint8), (3, 3), 0.6)


def semantic_map(labels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """ADE20K label map of a scene: 1 is background, `CLASSES[i]` is i + 2; 0, 'unlabelled', does not occur."""
    label_map = np.ones(masks.shape[1:], np.uint8)
    for label, mask in zip(labels, masks):
        label_map[mask] = label + 2
    return label_map


def coco_annotations(image_id: int, labels: np.ndarray, masks: np.ndarray, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of a scene: box (x, y, width, height) in pixels and run-length mask of what is visible."""
    annotations = []
    for i, (label, mask) in enumerate(zip(labels, masks)):
        rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotations.append(dict(
            id=first_id + i, image_id=image_id, category_id=int(label) + 1, iscrowd=0, area=int(mask.sum()),
            bbox=mask_utils.toBbox(rle).tolist(), segmentation=dict(size=rle['size'], counts=rle['counts'].decode())))
    return annotations


def write(root: str | os.PathLike[str], splits: Mapping[str, int] = SPLITS, size: tuple[int, int] = SIZE,
          seed: int = SEED) -> None:
    """Draw the data set into a folder, in the layout at the head of this file; existing files are replaced."""
    root = Path(root)
    for split, count in splits.items():
        for folder in ('images', 'annotations'):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        coco: dict[str, list[Any]] = dict(images=[], annotations=[],
                    categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])
        for number in tqdm(range(count), f'drawing {split} scenes', mininterval=1):
            image, labels, masks = scene(split, number, size, seed)
            name = f'{number:05}.png'
            save(root / 'images' / split / name, image)
            save(root / 'annotations' / split / name, semantic_map(labels, masks))
            coco['images'].append(dict(id=number, file_name=name, height=size[0], width=size[1]))
            coco['annotations'] += coco_annotations(number, labels, masks, len(coco['annotations']) + 1)
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(coco))


def save(path: Path, image: np.ndarray) -> None:
    """Write an image; OSError where that fails."""
    if not cv2.imwrite(str(path), image):
        raise OSError(f'could not write {path}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Draw the demo data set in COCO and ADE20K formats.')
    parser.add_argument('root', help='folder to write to, for example data/scenes')
    write(parser.parse_args().root)
