"""Generated single shapes, those of `mmattn.datasets.scenes`, to pre-train a classifier on.

    python -m mmattn.datasets.shapes data/shapes

writes a folder for each class, as ImageNet has:

    {train,val}/{disk,square,triangle,star,cross}/00000.png

Every image depends on the split and its number only, so two machines draw the same pixels.
"""
from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmattn.datasets.scenes import CLASSES, RADIUS, SEED, TILT, outline, photograph, save, shape, texture

SPLITS = {'train': 2500, 'val': 500}
SIDE = 80               # of an image, in pixels


def single(split: str, number: int, side: int = SIDE) -> tuple[np.ndarray, int]:
    """Draw one image: (H, W, 3) uint8 BGR, and the number of its class."""
    rng = np.random.default_rng([SEED, len(SPLITS) + list(SPLITS).index(split), number])
    image = texture(rng, (side, side), rng.random(), rng.uniform(0, 0.25))
    label = number % len(CLASSES)
    radius = rng.uniform(*RADIUS)
    center = rng.uniform(0.6 * radius, side - 0.6 * radius, 2)
    surface, mask = shape(rng, (side, side), label, outline(CLASSES[label], center, radius, rng.uniform(-TILT, TILT)))
    return photograph(np.where(mask[..., None], surface, image)), label


def write(root: str | os.PathLike[str], splits: Mapping[str, int] = SPLITS) -> None:
    """Draw the data set into a folder, in the layout at the head of this file; existing files are replaced."""
    for split, count in splits.items():
        for name in CLASSES:
            (Path(root) / split / name).mkdir(parents=True, exist_ok=True)
        for number in tqdm(range(count), f'drawing {split} shapes', mininterval=1):
            image, label = single(split, number)
            save(Path(root) / split / CLASSES[label] / f'{number:05}.png', image)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Draw the data set that demo-pretrain classifies.')
    parser.add_argument('root', help='folder to write to, for example data/shapes')
    write(parser.parse_args().root)
