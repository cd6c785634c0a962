"""What a model takes for what: predictions of a test beside the ground truth, class by class."""
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmattn.config import check_scope, evaluators, is_segmentation
from mmattn.datasets.checking import check_paths
from mmattn.datasets.ground_truth import label_map
from mmattn.errors import UsageError
from mmattn.measuring.points import build_datasets

BACKGROUND = '(nothing)'        # of objects that were not found, and boxes without an object


@dataclass(frozen=True)
class Confusion:
    """How often a class was taken for another.

    Args:
        classes: their names; in detection the last is `BACKGROUND`.
        counts: (classes, classes), objects or pixels of a row's class that were predicted as a column's.
        images: that were compared.
        without: images of the data set of which there is no prediction.
    """
    classes: list[str]
    counts: np.ndarray
    images: int
    without: int = 0

    @property
    def shares(self) -> np.ndarray:
        """The counts as shares of a row; nan where a class has nothing."""
        return _divided(self.counts, self.counts.sum(1, keepdims=True))

    @property
    def recall(self) -> np.ndarray:
        """Of each class, the share that was found."""
        return self.shares.diagonal()

    @property
    def precision(self) -> np.ndarray:
        """Of what was predicted as a class, the share that is it."""
        return _divided(self.counts.diagonal(), self.counts.sum(0))

    @property
    def iou(self) -> np.ndarray:
        """Of what is a class or was predicted as it, the share that is both."""
        right = self.counts.diagonal()
        return _divided(right, self.counts.sum(0) + self.counts.sum(1) - right)


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid='ignore', divide='ignore'):
        return part / whole


def confusion(cfg: Config, predictions: str | os.PathLike[str], score: float = 0.3, iou: float = 0.5) -> Confusion:
    """Compare the predictions of a test with the ground truth.

    An object is found by the box of the highest score that covers it at `iou` or more, whatever the class of the box;
    further boxes on it are taken for nothing, as if there were no object. Crowds do not count.

    Args:
        cfg: the whole config of the test.
        predictions: the pickle that the test wrote, which runs code when it is read, or for segmentation the folder of
            its label maps.
        score: detection, the lowest that counts.
        iou: detection, the least overlap of a box and an object.

    Raises:
        UsageError: a file is missing or holds no predictions, or those of other images.
    """
    check_scope(cfg, 'analyzed')
    check_paths({'test_dataloader': cfg.test_dataloader}, 'test')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        datasets = build_datasets(cfg, 'test')
        classes = [*datasets[0].metainfo['classes'], *([] if is_segmentation(cfg) else [BACKGROUND])]
        infos = {info['img_path']: info for dataset in datasets
                 for info in map(dataset.get_data_info, range(len(dataset)))}
        ignored = {255, *(metric.get('ignore_index', 255) for metric in evaluators(cfg, 'test'))}
        counts, images = np.zeros((len(classes), len(classes)), np.int64), 0
        for path, predicted in read_predictions(predictions, cfg, infos):
            if path not in infos:
                raise UsageError(f'{predictions} predicts for {path}, which is not in the test data of the config')
            counts += (count_pixels(label_map(infos[path]), predicted, len(classes), ignored) if is_segmentation(cfg)
                       else count_objects(infos[path]['instances'], predicted, len(classes), score, iou))
            images += 1
    if not images:
        raise UsageError(f'{predictions} has no prediction for an image of the test data')
    return Confusion(classes, counts, images, len(infos) - images)


def read_predictions(path: str | os.PathLike[str], cfg: Config,
                     infos: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Paths of images, with label maps (H, W) or what mmdet calls `pred_instances`.

    Raises:
        UsageError: nothing that can be read is there.
    """
    if Path(path).is_dir():
        if not is_segmentation(cfg):
            raise UsageError(f'{path} is a folder; those of a detector are one file: mmattn test --out FILE.pkl')
        files = {image: Path(path) / f'{Path(image).stem}.png' for image in infos}
        for image, file in files.items():
            if file.is_file():      # where 0 of the data set is ignored, mmseg writes the first class as 1
                yield image, np.array(Image.open(file)).astype(np.int64) - bool(infos[image]['reduce_zero_label'])
        return
    try:
        samples = pickle.loads(Path(path).read_bytes())
        key = 'pred_sem_seg' if is_segmentation(cfg) else 'pred_instances'
        found = [(sample['img_path'], sample[key]) for sample in samples]
    except FileNotFoundError as error:
        raise UsageError(f'predictions not found: {Path(path).absolute()}') from error
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise UsageError(f'{path} holds no predictions of a test of this config, as mmattn test --out FILE.pkl writes '
                         f'them ({type(error).__name__}: {error})') from error
    for image, predicted in found:
        yield image, predicted['data'].squeeze(0).numpy() if is_segmentation(cfg) else predicted


def count_pixels(truth: np.ndarray, predicted: np.ndarray, classes: int, ignored: set[int]) -> np.ndarray:
    """Pixels by class and prediction, (classes, classes).

    Raises:
        UsageError: the maps are not of one size, or have other classes.
    """
    if truth.shape != predicted.shape:
        raise UsageError(f'a label map of {predicted.shape} pixels was predicted for an image of {truth.shape}')
    if predicted.size and not 0 <= predicted.min() <= predicted.max() < classes:
        raise UsageError(f'labels {predicted.min()} to {predicted.max()} were predicted, there are {classes} classes')
    kept = ~np.isin(truth, list(ignored))
    pairs = truth[kept].astype(np.int64) * classes + predicted[kept]
    return np.bincount(pairs, minlength=classes ** 2).reshape(classes, classes)


def count_objects(instances: Sequence[Mapping[str, Any]], predicted: Mapping[str, Any], classes: int, score: float,
                  iou: float) -> np.ndarray:
    """Objects of an image by class and prediction, (classes, classes); the last class is nothing."""
    from pycocotools import mask as mask_utils
    counts = np.zeros((classes, classes), np.int64)
    nothing = classes - 1
    scores = predicted['scores'].numpy()
    order = [i for i in np.argsort(-scores, kind='stable') if scores[i] >= score]
    boxes, labels = predicted['bboxes'].numpy()[order], predicted['labels'].numpy()[order]
    crowd = np.array([bool(instance['ignore_flag']) for instance in instances], np.uint8)
    overlaps = np.zeros((len(boxes), len(instances)))
    if overlaps.size:
        overlaps = mask_utils.iou(as_coco(boxes), as_coco([instance['bbox'] for instance in instances]), crowd)
    free = crowd == 0
    for label, overlap in zip(labels, overlaps):
        best = int(np.where(free, overlap, -1).argmax()) if free.any() else -1
        if best >= 0 and overlap[best] >= iou:
            free[best] = False
            counts[instances[best]['bbox_label'], label] += 1
        elif not (overlap[crowd == 1] >= iou).any():
            counts[nothing, label] += 1
    for instance, missed in zip(instances, free):
        counts[instance['bbox_label'], nothing] += bool(missed)
    return counts


def as_coco(boxes: Any) -> np.ndarray:
    """Boxes of corners (left, top, right, bottom) as (left, top, width, height)."""
    corners = np.asarray(boxes, np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
