"""A training batch as the model gets it: its shapes and its picture."""
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, DefaultScope
from mmengine.runner import Runner, set_random_seed
from PIL import Image
from torch import Tensor

from mmattn.config import datasets_below
from mmattn.datasets.findings import Findings, fact
from mmattn.errors import UsageError

STYLES: dict[str, dict[str, Any]] = dict(
    mmdet=dict(type='DetLocalVisualizer', line_width=2, alpha=0.6), mmseg=dict(type='SegLocalVisualizer', alpha=0.5),
    mmpretrain=dict(type='UniversalVisualizer'))
DRAWN = 8           # images of the batch in the picture and in lines


def check_batch(cfg: Config, out: str | os.PathLike[str]) -> Findings[None]:
    """One batch through the training pipeline, its shapes, and its picture in the file `out`.

    Raises:
        UsageError: the picture cannot be written.
    """
    settings = deepcopy(cfg.train_dataloader)
    settings.update(num_workers=0, persistent_workers=False)
    for _, node in datasets_below(settings, ''):
        node['serialize_data'] = False      # it fails without images
    for of_workers in ('prefetch_factor', 'timeout', 'multiprocessing_context'):
        settings.pop(of_workers, None)
    set_random_seed(0)      # the same picture every time
    with DefaultScope.overwrite_default_scope(cfg.default_scope), quiet():
        loader = Runner.build_dataloader(settings, seed=0)
        batch = next(iter(loader), None) if len(loader.dataset) else None    # an endless sampler waits for ever
        if batch is None:
            raise ValueError(f'{len(loader.dataset)} images are left by filter_cfg, too few for a batch')
        images, samples = batch['inputs'], batch['data_samples']
        lines = [describe(image, sample) for image, sample in zip(images, samples)]
        draw(cfg.default_scope, loader.dataset.metainfo, images[:DRAWN], samples[:DRAWN], out)
    yield fact('batch', f'{len(images)} from {len(loader.dataset)} images, drawn as the model gets them in {out}')
    for line in lines[:DRAWN]:
        yield fact('', line)


def describe(image: Tensor, sample: Any) -> str:
    """The name of an image, and the shape and type of each tensor of it."""
    values = [('image', image), *sorted(sample.get('gt_instances', {}).items())]
    values += [('label map', value) for _, value in sample.get('gt_sem_seg', {}).items()]
    values = [(key, getattr(value, 'masks', value)) for key, value in values]       # BitmapMasks hold an array
    shapes = [f'{key} {tuple(value.shape)} {str(value.dtype).removeprefix("torch.")}' if hasattr(value, 'shape')
              else f'{key} {len(value)}' for key, value in values]
    shapes += [f'label {int(sample.gt_label)}'] if 'gt_label' in sample else []
    return f'  {os.path.basename(sample.get("img_path", "?"))}: {", ".join(shapes)}'


def draw(scope: str, metainfo: Mapping[str, Any], images: Sequence[Tensor], samples: Sequence[Any],
         out: str | os.PathLike[str]) -> None:
    """The images side by side, with their boxes and masks, label maps or labels."""
    visualizer = VISUALIZERS.build(dict(STYLES[scope], name='check_data'))
    visualizer.dataset_meta = metainfo
    pictures = []
    for image, sample in zip(images, samples):
        instances = sample.get('gt_instances', {})
        if 'bboxes' in instances:       # the visualizer takes no HorizontalBoxes
            instances.bboxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        pixels = image.clamp(0, 255).byte().flip(0).permute(1, 2, 0).contiguous().numpy()    # OpenCV's BGR to RGB
        if scope == 'mmpretrain':
            pictures.append(visualizer.visualize_cls(pixels, sample, draw_pred=False))
            continue
        visualizer.add_datasample('', pixels, sample, draw_pred=False)
        pictures.append(visualizer.get_image())
    height = max(picture.shape[0] for picture in pictures)
    row = [np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0))) for picture in pictures]
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(row, axis=1)).save(out)
    except (OSError, ValueError) as error:
        raise UsageError(f'{out} cannot be written: {error}') from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries print."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(logging.NOTSET)
