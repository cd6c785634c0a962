"""What was predicted for an image, as records that hold arrays alone."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmattn.errors import UsageError
from mmattn.inference.media import Picture


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was predicted for an image; see `Detections` and `Segmentation`.

    Args:
        name: of the image or video, unlike that of any other input.
        path: of its file; None of an array.
        frame: its number in a video, from 0; None of an image.
        size: (height, width) of the image.
        classes: names of all classes that the model knows.
    """
    name: str
    path: str | None
    frame: int | None
    size: tuple[int, int]
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Detections(Prediction):
    """What was detected, the surest first. Positions are in pixels of the image, 0 is its left or top edge.

    Args:
        boxes: (N, 4) float32, (left, top, right, bottom).
        scores: (N,) float32, from 0 to 1.
        labels: (N,) int64, numbers of classes.
        masks: (N, H, W) bool; None of a model that predicts boxes alone.
    """
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None = None

    @property
    def names(self) -> list[str]:
        """The name of the class of each box."""
        return [self.classes[label] for label in self.labels]

    def above(self, score: float) -> Detections:
        """Those whose score is not below `score`."""
        kept = self.scores >= score
        return Detections(self.name, self.path, self.frame, self.size, self.classes, self.boxes[kept],
                          self.scores[kept], self.labels[kept], None if self.masks is None else self.masks[kept])


@dataclass(frozen=True, eq=False)
class Segmentation(Prediction):
    """The class of every pixel.

    Args:
        label_map: (H, W) numbers of classes, uint8, or uint16 where there are more than 256.
    """
    label_map: NDArray[np.uint8] | NDArray[np.uint16]

    @property
    def areas(self) -> NDArray[np.int64]:
        """(classes,) how many pixels each class has."""
        return np.bincount(self.label_map.ravel(), minlength=len(self.classes))


@dataclass(frozen=True, eq=False)
class Classification(Prediction):
    """How sure a classifier is of each class.

    Args:
        scores: (classes,) float32, from 0 to 1.
    """
    scores: NDArray[np.float32]

    @property
    def label(self) -> int:
        """The number of the class with the highest score."""
        return int(self.scores.argmax())

    @property
    def label_name(self) -> str:
        """Its name."""
        return self.classes[self.label]

    def top(self, count: int = 5) -> list[int]:
        """The numbers of so many classes, or of all, the surest first."""
        return [int(label) for label in (-self.scores).argsort(kind='stable')[:count]]


WANTED = dict(mmdet='pred_instances', mmseg='pred_sem_seg', mmpretrain='pred_score')


def prediction_of(sample: Any, picture: Picture, classes: tuple[str, ...], library: str) -> Prediction:
    """The record of a data sample of a library.

    Raises:
        UsageError: it holds no boxes, no label map, or no scores.
    """
    height, width = picture.image.shape[:2]
    head = picture.source.name, picture.source.path, picture.frame, (height, width), classes
    wanted = WANTED[library]
    if wanted not in sample:
        raise UsageError(f'the model gives {", ".join(sample.keys()) or "nothing"} and no {wanted}: only boxes, masks '
                         'of instances, label maps and scores of classes can be written')
    found = sample.get(wanted).cpu()
    if library == 'mmpretrain':
        return Classification(*head, np.asarray(found, np.float32))
    if library == 'mmseg':
        return Segmentation(*head, found.data[0].numpy().astype(np.uint8 if len(classes) <= 256 else np.uint16))
    found = found[found.scores.argsort(descending=True, stable=True)]
    masks = found.get('masks')
    return Detections(*head, boxes=np.asarray(getattr(found.bboxes, 'tensor', found.bboxes), np.float32),
                      scores=np.asarray(found.scores, np.float32), labels=np.asarray(found.labels, np.int64),
                      masks=None if masks is None else np.asarray(masks, bool))
