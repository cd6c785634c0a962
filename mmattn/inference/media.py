"""What a user wants predictions for: images, folders, patterns and videos, as a list of named files."""
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mmattn.errors import ArgumentError, UsageError

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pbm', '.jp2')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv')

Image: TypeAlias = NDArray[np.uint8]        # (H, W, 3) BGR, as OpenCV has it
Input: TypeAlias = str | os.PathLike[str] | NDArray[Any]


class Unreadable(UsageError):
    """A file that is no image and no video, or a damaged one; the message says why."""


@dataclass(frozen=True, eq=False)
class Source:
    """One file, or one array.

    Args:
        name: relative and with slashes, unlike those of all other sources with it, even without its suffix.
        content: a path, or an image.
    """
    name: str
    content: Path | Image

    @property
    def path(self) -> str | None:
        """As the user wrote it; None of an array."""
        return str(self.content) if isinstance(self.content, Path) else None

    @property
    def video(self) -> Path | None:
        """The path, if it is a video by its suffix."""
        return self.content if isinstance(self.content, Path) and self.content.suffix.lower() in VIDEOS else None

    def __len__(self) -> int:
        """Images in it: 1, or what the header of a video says, which some write wrongly or not at all."""
        return count_frames(self.video) if self.video else 1


@dataclass(frozen=True, eq=False)
class Picture:
    """An image of a source.

    Args:
        source: where it is from.
        image: (H, W, 3) uint8 BGR.
        frame: its number in a video, from 0; None of an image.
    """
    source: Source
    image: Image
    frame: int | None = None


def find_sources(inputs: Input | Iterable[Input], without: str | os.PathLike[str] | None = None) -> list[Source]:
    """The files that paths, folders and patterns stand for, and arrays.

    A folder stands for the images and videos in it and below it, by their suffixes and in the order of their names;
    what is hidden is left out. A pattern has `*`, `?`, `[…]` or `**` in it. Sources are named by their path below the
    folder, or below what is before the first such sign of a pattern; where a name is taken, '_2', '_3', … is appended.

    Args:
        inputs: one, or several.
        without: a folder that is left out where it lies in another one, such as that of earlier results.

    Raises:
        UsageError: a path is missing, or a folder or a pattern has neither images nor videos.
        ArgumentError: an array is no image.
    """
    if isinstance(inputs, (str, os.PathLike, np.ndarray)):
        inputs = [inputs]
    taken: set[str] = set()
    found = []
    for i, item in enumerate(inputs):
        named = [(f'{i:05}.png', check_image(item))] if isinstance(item, np.ndarray) else _files(Path(item), without)
        found += [Source(_free(name, taken), content) for name, content in named]
    return found


def check_image(array: NDArray[Any]) -> Image:
    """(H, W, 3) of an array (H, W, 3), (H, W, 4) or (H, W), whose grey is repeated and whose alpha is left out.

    Raises:
        ArgumentError: it is of another shape or type.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)) or (
            not array.size):
        raise ArgumentError(f'an array of {array.dtype} and shape {array.shape} is no image; they are uint8, '
                            '(H, W, 3) BGR')
    array = array if array.ndim == 3 else array[..., None]
    return np.repeat(array, 3, 2) if array.shape[2] == 1 else array[..., :3]


def drawable(image: NDArray[Any]) -> Image:
    """(H, W, 3) uint8 of what a pipeline loads: of floats, of one channel, or of many, whose first three count."""
    if image.dtype != np.uint8:
        image = np.clip(image, 0, 255).astype(np.uint8)
    return check_image(image[..., :3] if image.ndim == 3 and image.shape[2] > 1 else image)


def _files(path: Path, without: str | os.PathLike[str] | None) -> list[tuple[str, Path]]:
    """The files that a path stands for, each with its name."""
    path = path.expanduser()
    if path.is_dir():
        root, files = path, sorted(_below(path, without))
    elif path.exists():
        return [(path.name, path)]
    elif glob.has_magic(str(path)):
        root = _fixed(path)
        matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
        files = [match for match in matches if match.is_file() and _is_media(match)]
    else:
        raise UsageError(f'input not found: {path.absolute()}')
    if not files:
        raise UsageError(f'{path} has no images or videos; known by {" ".join(IMAGES + VIDEOS)}')
    return [(file.relative_to(root).as_posix(), file) for file in files]


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in IMAGES + VIDEOS


def _below(folder: Path, without: str | os.PathLike[str] | None) -> Iterator[Path]:
    left_out = None if without is None else os.path.realpath(without)
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')
                      and os.path.realpath(os.path.join(place, name)) != left_out]
        yield from (Path(place, name) for name in files if not name.startswith('.') and _is_media(Path(name)))


def _fixed(pattern: Path) -> Path:
    """The folders before the first part of a pattern that is not literal."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:min(first, len(parts) - 1)])


def _free(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, whatever the suffix, also where file systems ignore case."""
    path, number = PurePosixPath(name), 1
    free = path
    while str(free.with_suffix('')).lower() in taken:
        number += 1
        free = path.with_stem(f'{path.stem}_{number}')
    taken.add(str(free.with_suffix('')).lower())
    return str(free)


def read_frames(path: str | os.PathLike[str]) -> Iterator[Image]:
    """The frames of a video, one by one.

    Raises:
        Unreadable: OpenCV cannot read a single one.
    """
    capture = cv2.VideoCapture(str(path))
    number = 0
    try:
        while (read := capture.read())[0]:
            number += 1
            yield check_image(read[1])
    finally:
        capture.release()
    if not number:
        raise Unreadable('not a video that OpenCV can read')


def count_frames(path: str | os.PathLike[str]) -> int:
    """How many frames the header of a video promises; 0 where it does not say."""
    return max(0, int(_property(path, cv2.CAP_PROP_FRAME_COUNT)))


def frame_rate(path: str | os.PathLike[str]) -> float:
    """Frames per second; 25 where a video does not say."""
    rate = _property(path, cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else 25.0


def _property(path: str | os.PathLike[str], what: int) -> float:
    capture = cv2.VideoCapture(str(path))
    try:
        return float(capture.get(what))
    finally:
        capture.release()


def batched(items: Iterable[Any], size: int, key: Any) -> Iterator[Sequence[Any]]:
    """Items that follow each other and have the same key, at most `size` at a time."""
    waiting: list[Any] = []
    for item in items:
        if waiting and (len(waiting) == size or key(waiting[0]) != key(item)):
            yield waiting
            waiting = []
        waiting.append(item)
    if waiting:
        yield waiting
