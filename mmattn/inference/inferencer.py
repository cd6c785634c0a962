"""A detector, segmentor or classifier with all that it needs to predict."""
from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope
from numpy.typing import NDArray

from mmattn.checks import check_at_least
from mmattn.config import (
    LIBRARIES,
    check_scope,
    datasets_below,
    datasets_with_pipeline,
    named,
    read_config,
)
from mmattn.datasets.checking import check_paths
from mmattn.datasets.loading import LoadOrSkip, reason
from mmattn.engine.building import config_errors, load_model
from mmattn.errors import ArgumentError, UsageError
from mmattn.inference.classes import find_classes
from mmattn.inference.media import (
    Input,
    Picture,
    Source,
    Unreadable,
    batched,
    check_image,
    drawable,
    find_sources,
    read_frames,
)
from mmattn.inference.results import Prediction, prediction_of
from mmattn.openmmlab import choose_checkpoint_reading

Skip = Callable[[Source, str], None]        # called with what cannot be read, and why


class Inferencer:
    """A detector, segmentor or classifier with its config, which predicts for images, folders and videos.

    Images go through the pipeline of the config's tests, so predictions are those of `mmattn test`. A batch holds
    images that follow each other and have the same size, so the number in a batch does not change what is predicted.

    Args:
        config: a file, the name of a config of ours, or a Config.
        checkpoint: a file, ours or the authors'; 'random' for the weights that training starts from.
        device: 'cpu', 'cuda', 'cuda:1', …; None for the best there is.
        batch_size: most images that the model sees at once; None for as many as in the tests of the config.
        options: settings of the config to change, by keys with dots.
        trust_checkpoint: run the code that a checkpoint may carry.

    Attributes:
        cfg: the config.
        name: of the config.
        net: the model, in evaluation mode.
        library: 'mmdet', whose models predict boxes, 'mmseg', label maps, or 'mmpretrain', classes.
        classes: their names.
        palette: (r, g, b) of each class.

    Raises:
        UsageError: a file is missing or cannot be used.
        ArgumentError: there is no such device; a batch size below 1.

    Example:
        >>> model = Inferencer('mask-rcnn_dat-t_fpn_1x_coco', 'epoch_12.pth')
        >>> for found in model(['street.jpg', 'folder', array]):        # arrays are BGR, as OpenCV reads them
        ...     print(found.name, found.boxes, found.names, found.scores)
    """

    net: Any

    def __init__(self, config: str | os.PathLike[str] | Config, checkpoint: str | os.PathLike[str], *,
                 device: str | None = None, batch_size: int | None = None, options: dict[str, Any] | None = None,
                 trust_checkpoint: bool = False) -> None:
        if batch_size is not None:
            check_at_least('batch_size', batch_size, 1)
        device = check_device(device)
        choose_checkpoint_reading(trust_checkpoint)
        self._adopt(own_config(config, options))
        self.batch_size = batch_size or self.cfg.test_dataloader.get('batch_size', 1)
        self.net = load_model(self.cfg, str(checkpoint), device)
        known, complaint = find_classes(self.cfg, self.settings, self.net.dataset_meta)
        self.classes, self.palette = known.names, known.palette
        if complaint:
            print_log(f'{self.name}: {complaint}', logger='current', level=logging.WARNING)

    def _adopt(self, cfg: Config) -> None:
        """What follows from the config alone."""
        check_scope(cfg, 'predicted with', LIBRARIES)
        self.cfg = cfg
        self.name = Path(cfg.filename).stem if cfg.filename else 'model'
        self.library = str(cfg.default_scope)
        nodes = datasets_with_pipeline(cfg, 'test')
        if not nodes:
            raise UsageError(f'{self.name}: test_dataloader has no pipeline, by which images are read and resized')
        self.settings = nodes[0]
        load, *steps = self.settings['pipeline']
        if named(load) != 'LoadImageFromFile':
            raise UsageError(f'{self.name}: the pipeline of the tests starts with {named(load)}, not with '
                             'LoadImageFromFile')
        with self._scope(), config_errors():
            self._load = LoadOrSkip([load]).load
            self._kind = np.float32 if load.get('to_float32') else np.uint8
            self._steps = Compose([step for step in steps if not _reads_annotations(step)])

    def __call__(self, inputs: Input | Iterable[Input]) -> list[Prediction]:
        """Predictions for all images and frames, in the order of the inputs. `stream` gives them one by one, which
        long videos need.

        Args:
            inputs: paths of images, folders and videos, patterns, arrays (H, W, 3) uint8 BGR; one, or several.

        Raises:
            UsageError: an input is missing or cannot be read.
        """
        return list(self.stream(inputs))

    def stream(self, inputs: Input | Iterable[Input], skip: Skip | None = None) -> Iterator[Prediction]:
        """As calling it does, but one after another: no more than a batch is held in memory.

        Args:
            inputs: as there.
            skip: is called with each input that cannot be read, and why; None raises UsageError then.
        """
        for picture, sample in self.samples(find_sources(inputs), skip):
            yield prediction_of(sample, picture, self.classes, self.library)

    def samples(self, sources: Iterable[Source], skip: Skip | None = None) -> Iterator[tuple[Picture, Any]]:
        """As `stream`, but each image with the data sample that the model gives for it."""
        for items in batched(self._read_all(sources, skip or _refuse), self.batch_size, key=_shape):
            pictures, data = zip(*items)
            yield from zip(pictures, self.run(pseudo_collate(list(data))))

    def batch(self, images: Sequence[Input]) -> dict[str, Any]:
        """Images after the pipeline of the tests, as `run` takes them and the model's `test_step`: 'inputs' and
        'data_samples'.

        Args:
            images: paths, or arrays (H, W, 3) uint8 BGR.

        Raises:
            UsageError: a file cannot be read.
        """
        return pseudo_collate([self._prepare(self._loaded(image if isinstance(image, np.ndarray) else Path(image)))
                               for image in images])

    def run(self, batch: Any) -> list[Any]:
        """The data samples of a batch, with predictions, computed without gradients."""
        with torch.no_grad():
            return list(self.net.test_step(batch))

    def annotated(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """An image of the test data set with its ground truth, as a batch of one.

        Raises:
            UsageError: it is not one, or the data set is missing.
        """
        check_paths(dict(test_dataloader=self.cfg.test_dataloader), 'test')
        with self._scope():
            for _, node in datasets_below(self.cfg.test_dataloader, ''):
                dataset = DATASETS.build({**deepcopy(node), 'test_mode': True})
                for i in range(len(dataset)):
                    if Path(dataset.get_data_info(i)['img_path']).resolve() == Path(path).resolve():
                        return pseudo_collate([dataset[i]])
        raise UsageError(f'ground truth: {path} is not an image of the test data set of {self.name}')

    def _scope(self) -> Any:
        return DefaultScope.overwrite_default_scope(self.cfg.default_scope)

    def _read_all(self, sources: Iterable[Source], skip: Skip) -> Iterator[tuple[Picture, Any]]:
        """Each image, and what the pipeline makes of it."""
        for source in sources:
            try:
                for frame, content in enumerate(read_frames(source.video) if source.video else [source.content]):
                    loaded = self._loaded(content)
                    picture = Picture(source, drawable(loaded['img']), frame if source.video else None)
                    yield picture, self._prepare(loaded)
            except Unreadable as error:
                skip(source, str(error))

    def _loaded(self, content: Path | NDArray[Any]) -> dict[str, Any]:
        """A file or an array, as after the first step of the pipeline."""
        known: dict[str, Any] = dict(img_path=None, img_id=0, reduce_zero_label=False)
        if isinstance(content, Path):
            try:
                return self._load({**known, 'img_path': str(content)})
            except AssertionError:      # mmcv's, where OpenCV gives nothing
                raise Unreadable('not an image that OpenCV can read') from None
            except Exception as error:      # decoders fail in many ways
                raise Unreadable(reason(error)) from error
        image = check_image(content)
        return {**known, 'img': image.astype(self._kind), 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2]}

    def _prepare(self, loaded: dict[str, Any]) -> Any:
        """The remaining steps of the pipeline."""
        size = '{}x{}'.format(*loaded['ori_shape'][1::-1])
        try:
            return self._steps(loaded)
        except cv2.error as error:      # a side of one pixel, say, that resizing would round to none
            raise Unreadable(f'of {size} pixels, which the pipeline of the tests cannot take: {error.err}') from error


def check_device(device: str | None) -> str:
    """The name of a device that can be used here.

    Args:
        device: a name; None for the best there is.

    Raises:
        ArgumentError: it is none, or not here.
    """
    if device is None:
        return str(get_device())
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f'device={device!r} cannot be used here: {str(error).splitlines()[0]}') from error
    return device


def own_config(config: str | os.PathLike[str] | Config, options: dict[str, Any] | None) -> Config:
    """A config of a file, by name, or a copy of one, changed by the options."""
    if not isinstance(config, Config):
        return read_config(config, options)
    config = deepcopy(config)
    config.merge_from_dict(options or {})
    return config


def _reads_annotations(step: Any) -> bool:
    name = named(step)
    return name.startswith('Load') and 'Annotation' in name


def _shape(item: tuple[Picture, Any]) -> Any:
    """What images of a batch have in common."""
    return item[1]['inputs'].shape


def _refuse(source: Source, why: str) -> None:
    raise UsageError(f'{source.path or source.name} cannot be read: {why}')
