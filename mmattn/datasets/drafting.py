"""A short config for data of one's own, written from a config of another data set and from what a folder holds."""
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmattn.config import CONFIGS, datasets_with_pipeline, find_config, is_segmentation, named
from mmattn.datasets.checking import NOT_HEADS
from mmattn.datasets.config_text import Code, assignments
from mmattn.datasets.layouts import Layout
from mmattn.errors import UsageError, some

COUNTS = 'num_classes', 'num_things_classes'        # what heads call the number of classes
# Hooks that change the augmentation of their own recipe in the middle of a training.
SWITCHES = 'PipelineSwitchHook', 'YOLOXModeSwitchHook'
STEPS = 1000        # of a training, at least
EPOCHS = 12         # of a training, at least
VALIDATIONS = 10    # in a training
WARM_UP = 'min(100, steps // 10)'


@dataclass(frozen=True)
class Draft:
    """What a config is written from.

    Args:
        name: of the base, as it was given.
        base: the config of that name.
        root: folder of the data.
        layout: what is in it.
        classes: their names.
        ignored: the value of label maps that is not learned; None without.
        scale: (longest, shortest) side in pixels that images are resized to.
        batch_size: images a step.
        epochs: of the training; None for as many as give it a thousand steps.
        checkpoint: that the training starts from; '' without.
    """
    name: str
    base: Config
    root: str
    layout: Layout
    classes: Sequence[str]
    ignored: int | None
    scale: tuple[int, int]
    batch_size: int
    epochs: int | None = None
    checkpoint: str = ''

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return -(-self.layout.splits['train'].count // self.batch_size)

    @property
    def length(self) -> int:
        """Epochs of the training."""
        return self.epochs or max(EPOCHS, -(-STEPS // self.steps))

    @property
    def rate(self) -> float:
        """The learning rate of the base, in proportion to the images a step."""
        assumed = self.base.get('auto_scale_lr', {}).get('base_batch_size') or self.batch_size
        return float(f'{self.base.optim_wrapper.optimizer.lr * self.batch_size / assumed:.3g}')

    @property
    def with_masks(self) -> bool:
        """Whether the base learns masks."""
        return any(step.get('with_mask') for step in pipeline_steps(self.base))


def pipeline_steps(cfg: Config) -> Iterator[Mapping[str, Any]]:
    """The steps of the training pipelines of a config, those inside of others too."""
    def below(node: Any) -> Iterator[Mapping[str, Any]]:
        if isinstance(node, Mapping):
            yield node
        for one in node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ():
            yield from below(one)
    yield from below(cfg.train_dataloader.dataset)


def usual_scale(cfg: Config, size: tuple[int, int]) -> tuple[int, int]:
    """The (longest, shortest) side that a config resizes its test images to; `size`, that of the images, where it
    leaves them as they are."""
    found = [step['scale'] for data in datasets_with_pipeline(cfg, 'test') for step in data['pipeline']
             if named(step) == 'Resize' and step.get('scale')]
    scale = found[0] if found else size
    return max(scale), min(scale)


def check_fits(draft: Draft) -> None:
    """Raise UsageError where the data has not what the base learns, or values of label maps that are no class."""
    if draft.with_masks and not draft.layout.with_masks:
        raise UsageError(f'{draft.name} learns masks, and the objects in {draft.root} have none; take a detector of '
                         'boxes, such as a retinanet_… config')
    if not is_segmentation(draft.base):
        return
    start = int(draft.ignored == 0)
    legal = {*range(start, start + len(draft.classes)), draft.ignored, 255}
    other = [value for value in draft.layout.values if value not in legal]
    if other:
        raise UsageError(f'the label maps in {draft.root} have the values {some(draft.layout.values, 300)}; with '
                         f'{len(draft.classes)} classes {some(other, 300)} would be none: name as many --classes as '
                         'there are, and the value that is not learned with --ignore VALUE')


def write(draft: Draft, path: Path) -> None:
    """Write the config into a file.

    Raises:
        UsageError: see `check_fits` and `base_of`; the file cannot be written.
    """
    check_fits(draft)
    content = text(draft, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    except OSError as error:
        raise UsageError(f'{path} cannot be written: {error}') from error


def text(draft: Draft, path: Path) -> str:
    """The config that goes into a file."""
    splits = draft.layout.splits
    sizes = ', '.join(f'{split} {part.count}' for split, part in splits.items())
    head = [f'# {Path(draft.name).stem} for {draft.root}', f'# images: {sizes}',
            f'_base_ = {base_of(draft.name, path)!r}', '', '# What all the rest follows from.']
    maps, index = is_segmentation(draft.base), index_of(draft)
    variables: dict[str, Any] = dict(
        data_root=f'{Path(draft.root)}/', classes=tuple(draft.classes), image_scale=draft.scale,
        **(dict(crop_size=crop_of(draft)) if maps else {}), **({} if index is None else dict(ignore_index=index)),
        batch_size=draft.batch_size, epochs=draft.length, learning_rate=draft.rate,
        steps=Code(f'epochs * -(-{splits["train"].count} // batch_size)'))
    write_data = label_maps if maps else boxes
    parts = [assignments(variables),
             '# The model.', assignments(dict(num_classes=Code('len(classes)'), model=model_of(draft))),
             '# The data.', assignments(write_data(draft)),
             '# The training.', assignments(schedule(draft))]
    return '\n'.join([*head, *parts])


def crop_of(draft: Draft) -> tuple[int, int]:
    """(H, W) of the crops that a segmentor trains on: that of the base, at most the size of a resized image."""
    size = draft.base.model.data_preprocessor.get('size') or draft.scale[::-1]
    width, height = draft.layout.size
    factor = min(max(draft.scale) / max(width, height), min(draft.scale) / min(width, height))
    return min(size[0], round(height * factor)), min(size[1], round(width * factor))


def base_of(name: str, path: Path) -> str:
    """How a config in the file `path` names its base.

    Raises:
        UsageError: the base is in Python, and cannot be that of a config in text.
    """
    if '::' in name:
        return name
    found = Path(find_config(name))
    if Config._is_lazy_import(str(found)):
        raise UsageError(f'{name} is a config in Python, and cannot be the base of one in text; take one in text')
    if CONFIGS in found.parents:
        return f'mmattn::{found.relative_to(CONFIGS).as_posix()}'
    return os.path.relpath(found, path.absolute().parent)


def model_of(draft: Draft) -> dict[str, Any]:
    """What of the base's model depends on the classes and on the size of the images."""
    other = {} if index_of(draft) is None else dict(ignore_index=Code('ignore_index'))
    model: dict[str, Any] = for_classes(draft.base.model, other) or {}
    if is_segmentation(draft.base):
        padding = Code('ignore_index') if other else 255
        model['data_preprocessor'] = dict(size=Code('crop_size'), seg_pad_val=padding)
    return model


def index_of(draft: Draft) -> int | None:
    """The value of label maps that is not learned, where it is neither 0 nor 255, which mmseg knows of."""
    return None if draft.ignored in (None, 0, 255) else draft.ignored


def for_classes(node: Any, other: Mapping[str, Any]) -> Any:
    """The part of a model's config that depends on the number of classes; None where nothing does.

    A list cannot be changed in part by a config that derives from another, so that it is whole.

    Args:
        node: the config.
        other: what else heads with a number of classes get.
    """
    if isinstance(node, (list, tuple)):
        changed = [for_classes(one, other) for one in node]
        return [merged(one, change or {}) for one, change in zip(node, changed)] if any(changed) else None
    if not isinstance(node, Mapping):
        return None
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key in COUNTS and value:
            found |= {key: Code('num_classes'), **other}
        elif key == 'class_weight' and isinstance(value, (list, tuple)) and len(set(value[:-1])) == 1:
            found[key] = Code(f'[{value[0]!r}] * num_classes + [{value[-1]!r}]')
        elif key not in NOT_HEADS and (change := for_classes(value, other)):
            found[key] = change
    return found or None


def merged(node: Any, change: Mapping[str, Any]) -> Any:
    """A config with changes in it."""
    return {**node, **{key: merged(node[key], value) if isinstance(value, Mapping) else value
                       for key, value in change.items()}} if change else node


def boxes(draft: Draft) -> dict[str, Any]:
    """The data of a detector."""
    is_coco = draft.layout.form == 'coco'
    annotations = dict(type='LoadAnnotations', with_bbox=True) | (dict(with_mask=True) if draft.with_masks else {})
    load, resize = dict(type='LoadImageFromFile'), dict(type='Resize', scale=Code('image_scale'), keep_ratio=True)
    keys = ['img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'] + ['instances'] * (not is_coco)
    common = dict(type='CocoDataset') if is_coco else dict(type='XMLDataset', data_prefix=dict(sub_data_root=''))
    common |= dict(data_root=Code('data_root'), metainfo=Code('dict(classes=classes)'))
    # of Pascal VOC, mmdet would learn boxes without area, and their logarithms are infinite
    kept = dict(filter_empty_gt=True, min_size=1) | ({} if is_coco else dict(bbox_min_size=1))
    metric = dict(_delete_=True, type='CocoMetric', metric=['bbox'] + ['segm'] * draft.with_masks, classwise=True)

    def data(split: str) -> dict[str, Any]:
        part = draft.layout.splits[split]
        prefix = dict(data_prefix=dict(img=part.images)) if is_coco else {}
        return {'**': Code('data'), 'ann_file': part.ann_file, **prefix}

    def evaluator(split: str) -> dict[str, Any]:
        # without an annotation file the metric takes the boxes from the samples themselves
        ann_file = Code(f"data_root + {draft.layout.splits[split].ann_file!r}")
        return metric | (dict(ann_file=ann_file) if is_coco else {})

    return dict(
        data=common,
        train_pipeline=[load, annotations, resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')],
        test_pipeline=[load, resize, annotations, dict(type='PackDetInputs', meta_keys=keys)],
        train_dataloader=dict(
            loader(data('train'), dict(type='DefaultSampler', shuffle=True), filter_cfg=kept),
            batch_sampler=dict(type='AspectRatioBatchSampler')),
        val_dataloader=loader(data('val'), test_mode=True),
        **same_or(draft, 'test_dataloader', loader(data('test'), test_mode=True)),
        val_evaluator=evaluator('val'), **same_or(draft, 'test_evaluator', evaluator('test')))


def label_maps(draft: Draft) -> dict[str, Any]:
    """The data of a segmentor."""
    layout, index = draft.layout, index_of(draft)
    other = {} if index is None else dict(ignore_index=Code('ignore_index'))
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    resize = dict(type='Resize', scale=Code('image_scale'), keep_ratio=True)
    usual = {named(step): step for step in pipeline_steps(draft.base)}      # augmentation is that of the base
    ratios = dict(ratio_range=tuple(usual['RandomResize']['ratio_range'])) if 'RandomResize' in usual else {}
    colors = [dict(type='PhotoMetricDistortion')] if 'PhotoMetricDistortion' in usual else []
    common = dict(type='BaseSegDataset', data_root=Code('data_root'), metainfo=Code('dict(classes=classes)'),
                  img_suffix=layout.img_suffix, seg_map_suffix=layout.seg_map_suffix,
                  reduce_zero_label=draft.ignored == 0) | other

    def data(split: str) -> dict[str, Any]:
        part = layout.splits[split]
        return {'**': Code('data'), 'data_prefix': dict(img_path=part.images, seg_map_path=part.maps)}

    return dict(
        data=common,
        train_pipeline=[
            *load, dict(resize, type='RandomResize', **ratios) if ratios else resize,
            dict(type='RandomCrop', crop_size=Code('crop_size'), cat_max_ratio=0.75) | other,
            dict(type='RandomFlip', prob=0.5), *colors, dict(type='PackSegInputs')],
        test_pipeline=[load[0], resize, load[1], dict(type='PackSegInputs')],
        train_dataloader=loader(data('train'), dict(type='InfiniteSampler', shuffle=True)),
        val_dataloader=loader(data('val')),
        **same_or(draft, 'test_dataloader', loader(data('test'))),
        val_evaluator=dict(_delete_=True, type='IoUMetric', iou_metrics=['mIoU']) | other,
        test_evaluator=Code('val_evaluator'))


def same_or(draft: Draft, name: str, value: Any) -> dict[str, Any]:
    """What belongs to the test, by its name; that of the validation where both have the same data."""
    same = draft.layout.splits['test'] == draft.layout.splits['val']
    return {name: Code(name.replace('test', 'val')) if same else value}


def loader(data: Mapping[str, Any], sampler: Mapping[str, Any] | None = None,
           **options: Any) -> dict[str, Any]:
    """A data loader: of the training with a `sampler`, or else of a test."""
    pipeline = Code('train_pipeline' if sampler else 'test_pipeline')
    return dict(
        _delete_=True, batch_size=Code('batch_size') if sampler else 1, num_workers=2, persistent_workers=True,
        sampler=sampler or dict(type='DefaultSampler', shuffle=False),
        dataset={**data, **options, 'pipeline': pipeline})


def schedule(draft: Draft) -> dict[str, Any]:
    """The training: its length, its learning rate over time, and what is kept of it."""
    every, by_epoch = max(1, draft.length // VALIDATIONS), not is_segmentation(draft.base)
    warms_up = draft.steps * draft.length >= 10
    warm = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=Code('warm_up'))
    cosine = dict(type='CosineAnnealingLR', begin=Code('warm_up') if warms_up else 0, end=Code('steps'),
                  eta_min_ratio=0.01, by_epoch=False)
    hooks = draft.base.get('custom_hooks') or []
    kept = [hook for hook in hooks if named(hook) not in SWITCHES]
    keep = dict(type='CheckpointHook', interval=every if by_epoch else every * draft.steps, by_epoch=by_epoch,
                max_keep_ckpts=1, save_best='coco/bbox_mAP' if by_epoch else 'mIoU')
    found: dict[str, Any] = dict(
        train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=Code('epochs'), val_interval=every)
        if by_epoch else dict(_delete_=True, type='IterBasedTrainLoop', max_iters=Code('steps'),
                              val_interval=every * draft.steps),
        **(dict(warm_up=Code(WARM_UP), param_scheduler=[warm, cosine]) if warms_up else
           dict(param_scheduler=[cosine])),
        optim_wrapper=dict(optimizer=dict(lr=Code('learning_rate'))),
        auto_scale_lr=dict(base_batch_size=Code('batch_size')),
        log_processor=dict(by_epoch=by_epoch),
        default_hooks=dict(logger=dict(interval=max(1, min(50, draft.steps // 2))), checkpoint=keep))
    if len(kept) < len(hooks):
        found['custom_hooks'] = kept
    if draft.checkpoint:
        found['load_from'] = draft.checkpoint
    return found
