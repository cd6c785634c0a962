"""How much of what deformable attention looks at lies on the objects of a data set."""
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from torch import nn
from tqdm import tqdm

from mmattn.config import check_scope, datasets_below, named
from mmattn.datasets.batch import quiet
from mmattn.datasets.checking import check_paths
from mmattn.datasets.findings import spread
from mmattn.datasets.ground_truth import ground_truth
from mmattn.engine.building import RANDOM, check_weights, load_model
from mmattn.errors import ArgumentError, UsageError
from mmattn.layers import DeformableAttention
from mmattn.visualization.recording import record_attention
from mmattn.visualization.shares import shares_inside


class Case(NamedTuple):
    """An image of a data set, and the labels of the classes that are not objects."""
    dataset: Any
    number: int
    background: list[int]


def analyze(cfg: Config, checkpoints: Sequence[str] = (RANDOM,), *, split: str = 'test', limit: int = 0,
            background: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Measure the deformable attention layers of a model on the images of a split.

    Args:
        cfg: the whole config.
        checkpoints: files, or 'random'.
        split: 'train', 'val' or 'test'; images go through the pipeline of the test.
        limit: most images of a data set; 0 for all.
        background: segmentation, classes that are not objects.

    Returns:
        for each checkpoint and layer the `Shares` of every image that has ground truth, (images, 4).

    Raises:
        UsageError: data or a checkpoint is missing or does not fit, no deformable attention in the model, no ground
            truth.
    """
    check(cfg, checkpoints, split)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        found: dict[str, dict[str, np.ndarray]] = {}
        cases: list[Case] = []
        for name, checkpoint in names(checkpoints).items():
            with quiet():
                model = load_model(cfg, checkpoint)
            layers = deformable_layers(model)
            if not layers:
                raise UsageError(f'{type(model).__name__} of {cfg.filename} has no DeformableAttention, whose points '
                                 'could be counted')
            cases = cases or list_cases(cfg, split, limit, background)      # after the model, the faster to fail
            found[name] = measure(model, layers, cases, name)
            if not found[name]:
                raise UsageError(f'none of {len(cases)} image(s) of {split} has an object in its ground truth')
        return found


def check(cfg: Config, checkpoints: Sequence[str], split: str) -> None:
    """Raise UsageError where something is wrong that can be seen before anything is built."""
    check_scope(cfg, 'measured')
    if not cfg.get(f'{split}_dataloader'):
        raise UsageError(f'--split {split}: the config has no {split}_dataloader')
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        raise UsageError('the model cuts images into pieces; add --cfg-options model.test_cfg.mode=whole')
    check_paths({f'{split}_dataloader': cfg[f'{split}_dataloader']}, split)      # evaluators are not needed
    for checkpoint in checkpoints:
        check_weights(cfg, checkpoint)


def names(checkpoints: Sequence[str]) -> dict[str, str]:
    """Short names of checkpoints that tell them apart."""
    checkpoints = list(dict.fromkeys(map(str, checkpoints)))
    short = [Path(checkpoint).name for checkpoint in checkpoints]
    return dict(zip(short if len(set(short)) == len(short) else checkpoints, checkpoints))


def deformable_layers(model: nn.Module) -> list[str]:
    """Names of the layers of deformable attention."""
    return [name for name, module in model.named_modules() if isinstance(module, DeformableAttention)]


def list_cases(cfg: Config, split: str, limit: int, background: Sequence[str] | None) -> list[Case]:
    """The images to measure."""
    datasets = [(dataset, background_of(cfg, dataset, background)) for dataset in build_datasets(cfg, split)]
    return [Case(dataset, i, labels) for dataset, labels in datasets for i in spread(range(len(dataset)), limit)]


def build_datasets(cfg: Config, split: str) -> list[Any]:
    """Every innermost data set of a split, with the pipeline of the test, which neither crops nor flips.

    Ground truth is not the pipeline's to load, because it would be resized with the image.
    """
    source = cfg.get('test_dataloader') or cfg.get('val_dataloader') or cfg.train_dataloader
    pipeline = next(node for _, node in datasets_below(source, ''))['pipeline']
    pipeline = [step for step in pipeline if not named(step).endswith('Annotations')]
    with quiet():
        return [DATASETS.build({**node, 'pipeline': pipeline, 'test_mode': True})
                for _, node in datasets_below(cfg[f'{split}_dataloader'], '')]


def background_of(cfg: Config, dataset: Any, wanted: Sequence[str] | None) -> list[int]:
    """Labels of the classes that are not objects; none in detection."""
    classes = [name.strip() for name in dataset.metainfo['classes']]       # ADE20K has a 'bed '
    if cfg.default_scope == 'mmdet':
        if wanted:
            raise UsageError('--background is for segmentation; in detection the masks of all instances count')
        return []
    unknown = [name for name in wanted or ['background'] if name not in classes]
    if unknown:
        fault = f'{", ".join(unknown)}: no such class' if wanted else 'is needed, no class is called background'
        raise UsageError(f'--background {fault}; the classes are {", ".join(classes)}')
    return [classes.index(name) for name in wanted or ['background']]


def measure(model: Any, layers: Sequence[str], cases: Sequence[Case], name: str) -> dict[str, np.ndarray]:
    """The `Shares` of every deformable attention layer on every image.

    Args:
        model: a detector or a segmentor.
        layers: names of the layers.
        cases: the images.
        name: for the progress bar.

    Returns:
        for each layer, (images with ground truth, 4).
    """
    chosen = '|'.join(f'^{re.escape(layer)}$' for layer in layers)
    if all(layer.startswith(('backbone.', 'neck.')) for layer in layers):       # the heads would take most of the time
        model.predict = lambda inputs, *args, **kwargs: model.extract_feat(inputs)
    found: dict[str, list[Any]] = {}
    for case in tqdm(cases, desc=name, unit='image'):
        try:
            mask, ignored = ground_truth(case.dataset, case.number, case.background)
            if not mask.any():
                continue
            data = case.dataset[case.number]
        except FileNotFoundError as error:
            raise UsageError(f'data not found: {error.filename}') from error
        with torch.no_grad(), record_attention(model, layers=chosen) as records:
            model.test_step(pseudo_collate([data]))
        for record in records:
            try:
                shares = shares_inside(record, torch.from_numpy(mask), torch.from_numpy(ignored))
            except ArgumentError as error:
                raise UsageError(f'{data["data_samples"].img_path}: {error}') from error
            found.setdefault(record.layer, []).append(shares)
    return {layer: np.array(shares) for layer, shares in found.items()}
