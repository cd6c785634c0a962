"""Predictions for many images and videos, left behind as files."""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from tqdm import tqdm

from mmattn.errors import ArgumentError, UsageError
from mmattn.inference.classes import Classes
from mmattn.inference.inferencer import Inferencer, Skip, own_config
from mmattn.inference.media import Image, Input, Picture, Source, find_sources
from mmattn.inference.results import Classification, Detections, Prediction, Segmentation, prediction_of
from mmattn.inference.writing import (
    ClassificationWriter,
    DetectionWriter,
    PictureWriter,
    SegmentationWriter,
    image_name,
    new_path,
)
from mmattn.visualization import record_attention
from mmattn.visualization.painting import paint_instances, paint_label_map, paint_texts
from mmattn.visualization.panels import Choice, Found, draw_grid, panels

SCORE = 0.3         # from which on a detection is drawn
RESULTS = 'pictures', 'labels', 'attention'     # folders
TO_DRAW = 'record_attention(model.backbone) gives that of a classifier as tensors'
WRITERS = dict(mmdet=DetectionWriter, mmseg=SegmentationWriter, mmpretrain=ClassificationWriter)


@dataclass(frozen=True)
class Outcome:
    """What `predict` left behind.

    Args:
        folder: with predictions.json, pictures, labels of a segmentation, attention where it was asked for.
        images: how many images and frames there are predictions for.
        skipped: path of each file that could not be read, and why.
    """
    folder: Path
    images: int
    skipped: tuple[tuple[str, str], ...]


def predict(inputs: Input | Iterable[Input], config: str | os.PathLike[str] | Config,
            checkpoint: str | os.PathLike[str], *, out_dir: str | os.PathLike[str] | None = None, score: float = SCORE,
            batch_size: int | None = None, device: str | None = None, options: dict[str, Any] | None = None,
            trust_checkpoint: bool = False, pictures: bool = True, attention: bool = False, skip: Skip | None = None,
            progress: bool = False) -> Outcome:
    """Predict for images, folders, patterns and videos, and write what was found: what the command `mmattn predict`
    does.

    Args:
        inputs, config, checkpoint, batch_size, device, options, trust_checkpoint: see `Inferencer`.
        out_dir: where files go; None for work_dirs/predict/<name of the config>. It is left out where it lies below an
            input folder.
        score: lowest score of a detection in pictures; the JSON file holds all that the model returns.
        pictures: whether pictures and videos are painted.
        attention: whether what the model attends to is drawn beside the predictions, for the middle of what it is
            surest of.
        skip: is called with each file that cannot be read, and why.
        progress: whether a bar is shown, if stderr is a terminal.

    Raises:
        UsageError: an input is missing, none can be read, or would be overwritten; a file of the model is missing or
            cannot be used.
        ArgumentError: as `Inferencer`.

    Example:
        >>> predict(['street.jpg', 'holiday/', 'clip.mp4'], 'mask-rcnn_dat-t_fpn_1x_coco', 'epoch_12.pth')
    """
    cfg = own_config(config, options)
    folder = Path(out_dir or Path('work_dirs/predict') / Path(cfg.filename or 'model').stem)
    sources = find_sources(inputs, without=folder)
    check_outputs(sources, folder)
    model = Inferencer(cfg, checkpoint, device=device, batch_size=batch_size, trust_checkpoint=trust_checkpoint)
    if attention:
        check_attention(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f'out_dir {folder} cannot be written: {error}') from error
    skipped: list[tuple[str, str]] = []

    def note(source: Source, why: str) -> None:
        skipped.append((source.path or source.name, why))
        if skip:
            skip(source, why)

    known = Classes(model.classes, model.palette)
    count = 0
    with WRITERS[model.library](folder, known) as file, \
            closing(PictureWriter(folder / 'pictures')) as painted, \
            tqdm(total=sum(map(len, sources)), unit='image', disable=None if progress else True) as bar:
        for picture, sample in model.samples(sources, note):
            found = prediction_of(sample, picture, model.classes, model.library)
            file.add(found)
            if pictures:
                painted.add(picture.source, paint(picture.image, found, known, score))
            if attention:
                name = image_name(found.name, found.frame)
                draw_attention(new_path(folder / 'attention', name), model, picture, sample, score)
            count += 1
            bar.update()
    if not count:
        raise UsageError(f'none of {len(sources)} inputs can be read, the first: {": ".join(skipped[0])}')
    return Outcome(folder, count, tuple(skipped))


def check_outputs(sources: Sequence[Source], folder: Path) -> None:
    """Raise UsageError where an input lies among earlier results, which may be overwritten."""
    results = [(folder / name).resolve() for name in RESULTS]
    for source in sources:
        if source.path and any(result in Path(source.path).resolve().parents for result in results):
            raise UsageError(f'{source.path} is an input and might be overwritten; take another folder for results '
                             f'than {folder}')


def paint(image: Image, found: Prediction, known: Classes, score: float = SCORE) -> Image:
    """What was found, painted into a copy of its image; detections of a lower score are left out."""
    if isinstance(found, Segmentation):
        return paint_label_map(image, found.label_map, known.names, known.palette)
    if isinstance(found, Classification):
        texts = [f'{known.names[label]} {found.scores[label]:.2f}' for label in found.top()]
        return paint_texts(image, texts, [known.palette[label] for label in found.top()])
    assert isinstance(found, Detections)
    found = found.above(score)
    texts = [f'{name} {score:.2f}' for name, score in zip(found.names, found.scores)]
    return paint_instances(image, found.boxes, texts, [known.palette[label] for label in found.labels], found.masks)


def check_attention(model: Inferencer) -> None:
    """Raise UsageError where a model has no layer that says what it attends to."""
    if model.library == 'mmpretrain':
        raise UsageError(f'{model.name}: attention can be drawn of detectors and segmentors; {TO_DRAW}')
    try:
        with record_attention(model.net):
            pass
    except ArgumentError as error:
        raise UsageError(f'{model.name}: attention cannot be drawn: {error}') from error


def draw_attention(path: Path, model: Inferencer, picture: Picture, sample: Any, score: float) -> None:
    """Draw what a model found in an image, and beside it what it attends to for the middle of what it is surest of.

    Raises:
        UsageError: the model cuts its input into pieces, of which no picture can be made.
    """
    size = picture.image.shape[:2]
    found = Found(sample, model.classes, score_thr=score, palette=model.palette)
    try:
        with record_attention(model.net, [found.middle(size)]) as records:
            model.run(model.batch([picture.image]))
    except ArgumentError as error:
        raise UsageError(f'{model.name}: attention cannot be drawn: {error}') from error
    pictures = list(panels(picture.image[..., ::-1], found, {model.name: records}, Choice()))
    draw_grid(pictures, size).savefig(path, dpi=100)
