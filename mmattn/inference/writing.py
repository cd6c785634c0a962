"""Files with predictions: COCO's JSON of detections, label maps with their areas, surest classes, pictures, videos."""
from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from mmattn.errors import UsageError
from mmattn.inference.classes import Classes
from mmattn.inference.media import Image, Source, frame_rate
from mmattn.inference.results import Classification, Detections, Prediction, Segmentation

if TYPE_CHECKING:
    from typing_extensions import Self

DIGITS = 6          # of boxes and scores
WRITTEN = ('.png', '.jpg', '.jpeg')         # pictures that keep their suffix


def picture_name(source: Source) -> str:
    """Of the picture of a source, or of its video."""
    path = PurePosixPath(source.name)
    suffix = '.mp4' if source.video else path.suffix if path.suffix.lower() in WRITTEN else '.png'
    return str(path.with_suffix(suffix))


def image_name(name: str, frame: int | None) -> str:
    """Of a PNG of an image, or of a frame in a folder named like its video."""
    path = PurePosixPath(name)
    return str(path.with_suffix('.png') if frame is None else path / f'{frame:06}.png')


def new_path(folder: Path, name: str) -> Path:
    """A path below a folder, with the folders that it needs."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_image(path: Path, image: Image) -> None:
    """Write an image, encoded as its suffix says."""
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def write_label_map(path: Path, label_map: NDArray[np.uint8] | NDArray[np.uint16], known: Classes) -> None:
    """A PNG whose values are numbers of classes, in the colours of the classes; with more than 256, in grey of 16 bits.
    """
    if label_map.dtype != np.uint8:
        path.write_bytes(cv2.imencode('.png', label_map)[1].tobytes())
        return
    picture = Pillow.fromarray(label_map)
    picture.putpalette([part for color in known.palette for part in color])
    picture.save(path)


class ListFile:
    """A JSON file with lists that grow while a program runs, one of them in the file itself, an item a line. However
    the program ends, the file is whole.

    Args:
        path: of the file.
        head: what comes first.
        name: of the list that is written at once.
    """

    def __init__(self, path: Path, head: dict[str, Any], name: str) -> None:
        self.path = path
        self.head = head
        self.name = name
        self.count = 0
        self.later: dict[str, list[Any]] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> ListFile:
        self._file = self.path.open('w', encoding='utf-8')
        self._file.write(json.dumps(self.head, ensure_ascii=False)[:-1] + f', "{self.name}": [')
        return self

    def add(self, item: Any) -> None:
        assert self._file is not None
        self._file.write(',\n'[not self.count:] + json.dumps(item, ensure_ascii=False))
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        assert self._file is not None
        self._file.write(']' + ''.join(f',\n"{name}": {json.dumps(items, ensure_ascii=False)}'
                                       for name, items in self.later.items()) + '}\n')
        self._file.close()


class Writer:
    """What writes a growing file while it is entered."""

    _file: ListFile

    def add(self, found: Prediction) -> None:
        """Write what was found in an image."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


class DetectionWriter(Writer):
    """All that a detector found, as COCO has it: `pycocotools.coco.COCO` opens the file, and its `loadRes` takes the
    annotations. Categories are numbered from 1 in the order of the classes.

    Args:
        folder: of predictions.json.
        known: the classes.
    """

    def __init__(self, folder: Path, known: Classes) -> None:
        categories = [dict(id=i, name=name) for i, name in enumerate(known.names, 1)]
        self._file = ListFile(folder / 'predictions.json', dict(categories=categories), 'annotations')
        self._images: list[Any] = self._file.later.setdefault('images', [])

    def add(self, found: Prediction) -> None:
        """Write what was found in an image."""
        assert isinstance(found, Detections)
        number = len(self._images) + 1
        self._images.append(dict(id=number, **describe(found)))
        for i, name in enumerate(found.names):
            left, top, right, bottom = found.boxes[i].tolist()
            box = [left, top, right - left, bottom - top]
            item = dict(id=self._file.count + 1, image_id=number, file_name=found.name,
                        category_id=int(found.labels[i]) + 1, category_name=name,
                        bbox=[round(value, DIGITS) for value in box], score=round(float(found.scores[i]), DIGITS),
                        area=round(box[2] * box[3], DIGITS), iscrowd=0)
            if found.masks is not None:
                item.update(segmentation=encode_mask(found.masks[i]), area=int(found.masks[i].sum()))
            self._file.add(item)


class SegmentationWriter(Writer):
    """The label maps of a segmentor, as PNG files, and how large the areas of the classes are.

    Args:
        folder: of predictions.json and of the folder labels.
        known: the classes.
    """

    def __init__(self, folder: Path, known: Classes) -> None:
        self.folder = folder
        self.known = known
        classes = [dict(index=i, name=name, color=list(color))
                   for i, (name, color) in enumerate(zip(known.names, known.palette))]
        self._file = ListFile(folder / 'predictions.json', dict(classes=classes), 'images')

    def add(self, found: Prediction) -> None:
        """Write the label map of an image, and its areas."""
        assert isinstance(found, Segmentation)
        name = f'labels/{image_name(found.name, found.frame)}'
        write_label_map(new_path(self.folder, name), found.label_map, self.known)
        areas = [dict(index=i, name=self.known.names[i], pixels=int(pixels),
                      share=round(float(pixels / found.label_map.size), DIGITS))
                 for i, pixels in enumerate(found.areas) if pixels]
        self._file.add(dict(id=self._file.count + 1, **describe(found), label_map=name, areas=areas))


class ClassificationWriter(Writer):
    """The surest classes of every image.

    Args:
        folder: of predictions.json.
        known: the classes.
    """

    def __init__(self, folder: Path, known: Classes) -> None:
        self._file = ListFile(folder / 'predictions.json', dict(classes=list(known.names)), 'images')

    def add(self, found: Prediction) -> None:
        """Write the surest classes of an image."""
        assert isinstance(found, Classification)
        top = [dict(index=i, name=found.classes[i], score=round(float(found.scores[i]), DIGITS)) for i in found.top()]
        self._file.add(dict(id=self._file.count + 1, **describe(found), class_name=found.label_name, top=top))


def describe(found: Prediction) -> dict[str, Any]:
    """An image in a JSON file."""
    height, width = found.size
    frame = {} if found.frame is None else dict(frame=found.frame)
    return dict(file_name=found.name, path=found.path, **frame, height=height, width=width)


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """(H, W) as COCO's compressed run lengths."""
    from pycocotools import mask as coco  # here: mmseg does without
    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    return dict(size=[int(side) for side in encoded['size']], counts=encoded['counts'].decode())


class PictureWriter:
    """Painted images and videos below a folder. A video ends when the next source begins.

    Args:
        folder: gets them, under the names of their sources.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._source: Source | None = None
        self._video: cv2.VideoWriter | None = None

    def add(self, source: Source, image: Image) -> None:
        """Write an image, or the next frame of a video.

        Raises:
            UsageError: OpenCV cannot write videos here.
        """
        if source is not self._source:
            self.close()
            self._source = source
            if source.video:
                self._video = self._new_video(source, image)
        if self._video:
            self._video.write(image)
        else:
            write_image(new_path(self.folder, picture_name(source)), image)

    def _new_video(self, source: Source, image: Image) -> cv2.VideoWriter:
        path = new_path(self.folder, picture_name(source))
        assert source.video is not None
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), frame_rate(source.video),
                                image.shape[1::-1])
        if not video.isOpened():
            raise UsageError(f'{path} cannot be written: OpenCV has no encoder for it here')
        return video

    def close(self) -> None:
        """End the video that is being written."""
        if self._video:
            self._video.release()
        self._video = None


