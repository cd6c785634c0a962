"""Checks of the data sets of a config: everything (`check`), or what is quick enough before each training and test
(`check_paths`, `check_annotations`)."""
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from mmattn.config import LIBRARIES, SPLITS, check_scope, dataset_class, datasets_below, evaluators, is_classification
from mmattn.datasets import coco
from mmattn.datasets.batch import check_batch, quiet
from mmattn.datasets.findings import Finding, Findings, fact, first, guarded, problem, warning
from mmattn.datasets.label_maps import check_label_maps
from mmattn.datasets.labelled_images import check_labelled_images
from mmattn.datasets.processes import on_the_first
from mmattn.datasets.voc import check_voc
from mmattn.errors import UsageError, some

T = TypeVar('T')
NOT_HEADS = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor')
NAMED = 10          # annotations in a line


def check(cfg: Config, out: str | os.PathLike[str], splits: Sequence[str] = SPLITS,
          limit: int = 200) -> Iterator[Finding]:
    """Check the data sets of a config, then draw a training batch.

    Args:
        cfg: the whole config, of mmdet, mmseg or mmpretrain.
        out: file of the picture.
        splits: 'train', 'val', 'test'; those that the config lacks are skipped.
        limit: most images of a data set to decode, spread over it; 0 for all.

    Yields:
        findings, in the order of the splits.

    Raises:
        UsageError: the config is of another library, or a data set is in another format.
    """
    check_scope(cfg, 'checked', LIBRARIES)
    splits = [split for split in splits if cfg.get(f'{split}_dataloader')]
    faulty = False
    for finding in check_splits(cfg, splits, limit):
        faulty |= finding.level == 'problem' and finding.place.startswith('train')
        yield finding
    if 'train' in splits:
        yield from guarded(fact if faulty else problem, 'no batch', check_batch(cfg, out))


def check_splits(cfg: Config, splits: Sequence[str], limit: int) -> Iterator[Finding]:
    """Every data set of the splits, and the model's heads against the first one's classes."""
    expected: Sequence[str] = ()
    for split in splits:
        if split == 'test' and 'val' in splits and all(
                cfg.get(f'test_{part}') == cfg.get(f'val_{part}') for part in ('dataloader', 'evaluator')):
            yield fact('test', 'the same as val')
            continue
        try:
            check_paths(cfg, split)
        except UsageError as error:
            yield problem(split, str(error))
            continue
        nodes = dict(datasets_below(cfg[f'{split}_dataloader'], f'{split}_dataloader'))
        for key, node in nodes.items():
            place = split if len(nodes) == 1 else key
            classes = yield from guarded(problem, place, check_dataset(cfg, split, place, node, expected, limit))
            if classes and not expected:
                expected = classes
                yield from check_heads(cfg, classes)
        yield from check_evaluators(cfg, split)


def check_dataset(cfg: Config, split: str, place: str, node: Mapping[str, Any], expected: Sequence[str],
                  limit: int) -> Findings[Sequence[str]]:
    """One data set; returns its classes.

    Raises:
        UsageError: it is in a format that no check is for.
    """
    dataset = described(cfg, node)
    if is_classification(cfg):
        dataset.full_init()     # the names of the classes may be those of folders
    classes = yield from classes_of(place, dataset, expected)
    if is_classification(cfg):
        yield from check_labelled_images(place, dataset, classes, limit)
    elif cfg.default_scope == 'mmseg':
        yield from check_label_maps(place, dataset, classes, limit)
    elif reads_as(dataset, 'CocoDataset'):
        with_masks = any(transform.get('with_mask') for transform in node.get('pipeline', ()))
        agree = not expected or classes == expected
        yield from coco.check_coco(split, place, dataset, classes if agree else (), with_masks, limit)
    elif reads_as(dataset, 'XMLDataset'):
        yield from check_voc(place, dataset, classes, limit)
    else:
        raise UsageError(f'{place}: {type(dataset).__name__} reads its file neither as CocoDataset nor as XMLDataset '
                         'does, and only these can be checked')
    return classes


def described(cfg: Config, node: Mapping[str, Any]) -> Any:
    """A data set that knows its classes and its paths, and has read nothing."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), quiet():
        return DATASETS.build({**node, 'pipeline': [], 'lazy_init': True})


def classes_of(place: str, dataset: Any, expected: Sequence[str]) -> Findings[Sequence[str]]:
    """The classes of a data set, which are the `expected` ones if there are any."""
    classes = dataset.metainfo.get('classes') or ()
    if not classes or isinstance(classes, str):
        yield problem(place, f"metainfo.classes is {classes!r}; it takes names, a single one as classes=('name',)")
        classes = ()
    classes = tuple(classes)
    if expected and classes and classes != expected:
        yield problem(place, f'metainfo.classes are {len(classes)} ({first(classes)}), those of the first split '
                             f'{len(expected)} ({first(expected)})')
    return classes


def reads_as(dataset: Any, kind: str) -> bool:
    """Whether a data set of mmdet reads its annotations as the class of that name does."""
    from mmdet import datasets
    return isinstance(dataset, getattr(datasets, kind)) and (
        type(dataset).load_data_list is getattr(datasets, kind).load_data_list)


def check_heads(cfg: Mapping[str, Any], classes: Sequence[str]) -> Iterator[Finding]:
    """Every num_classes of the model's heads is the number of classes, and so is that of a data preprocessor that makes
    vectors of labels."""
    model = cfg.get('model')
    if not model or 'language_model' in model:      # whose heads count words
        return
    found = [*heads(model, 'model'), *heads(cfg.get('data_preprocessor'), 'data_preprocessor')]
    wrong = [f'{key}={value}' for key, value in found if value != len(classes)]
    if wrong:
        yield problem(', '.join(wrong), f'the data set has {len(classes)} classes, set {len(classes)}')


def heads(node: Any, key: str) -> Iterator[tuple[str, int]]:
    """The key and the value of every num_classes below the heads of a model."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in children:
        if name == 'num_classes':
            yield f'{key}.{name}', value
        elif name not in NOT_HEADS:
            yield from heads(value, f'{key}.{name}')


def check_evaluators(cfg: Config, split: str) -> Iterator[Finding]:
    """The evaluators read the annotation file of the data set, or a copy of it."""
    nodes = [node for _, node in datasets_below(cfg[f'{split}_dataloader'], '')]
    files = [os.path.join(node.get('data_root') or '', node.get('ann_file') or '') for node in nodes]
    for evaluator in evaluators(cfg, split):
        file = evaluator.get('ann_file')
        if not file or '://' in file or os.path.realpath(file) in map(os.path.realpath, files):
            continue
        same = set().union(*map(_boxes, files)) <= _boxes(file)
        yield (warning if same else problem)(
            split, f'{split}_evaluator.ann_file is {file}, but the data set reads {first(files)}'
            + ('' if same else ', and they have not the same boxes'))


def _boxes(file: str) -> set[tuple[Any, ...]]:
    """Boxes of a COCO file, with their images and categories, and images; of another file, none."""
    try:
        content = _stop_at_a_problem(coco.read('', file)) or {'images': [], 'annotations': []}
    except UsageError:
        return set()
    return {(image.get('id'), image.get('file_name')) for image in content['images']} | {
        (box.get('image_id'), box.get('category_id'), str(box.get('bbox'))) for box in content['annotations']}


def check_paths(cfg: Mapping[str, Any], *splits: str) -> None:
    """Check that the annotation files and image folders of the given splits exist.

    Args:
        cfg: the whole config.
        *splits: 'train', 'val', 'test'; a split that the config lacks is skipped.

    Raises:
        UsageError: naming the first path that is missing and the setting it came from.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for key, dataset in datasets_below(loader, f'{split}_dataloader') if loader else ():
            root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
            wanted = {'ann_file': dataset.get('ann_file')}
            if is_classification(cfg):
                wanted['data_prefix' if prefix else 'split'] = prefix or dataset.get('split')
            else:
                wanted.update({f'data_prefix.{k}': v for k, v in prefix.items()})
            for name, value in wanted.items():
                _check_exists(f'{key}.{name}', os.path.join(root, value) if value else None,
                              f'{key}.data_root={root!r}')
        for evaluator in evaluators(cfg, split):
            _check_exists(f'{split}_evaluator.ann_file', evaluator.get('ann_file'), '')


def _check_exists(key: str, path: str | None, setting: str) -> None:
    if path and '://' not in path and not os.path.exists(path):
        advice = f'; put the data there, link it, or change {setting} with --cfg-options' if setting else ''
        raise UsageError(f'data not found: {Path(path).absolute()} ({key}){advice}')


def check_annotations(cfg: Config, *splits: str) -> None:
    """Check, on annotation files alone, what would train and test without a word and be wrong: classes of another
    number or order, an evaluator of other images, masks upon which COCO's code would stop after the last image.

    With several processes, the first one reads for all.

    Raises:
        UsageError: the first such fault.
    """
    on_the_first(lambda: _check_annotations(cfg, splits))


def _check_annotations(cfg: Config, splits: Sequence[str]) -> None:
    expected: Sequence[str] = ()
    for split in splits:
        if cfg.get(f'{split}_dataloader'):
            expected = _stop_at_a_problem(_of_annotations(cfg, split, expected))
            check_masks(cfg, split)


def _of_annotations(cfg: Config, split: str, expected: Sequence[str]) -> Findings[Sequence[str]]:
    """The classes of a split, the model's heads, the evaluators; returns the classes of the first data set."""
    for _, node in datasets_below(cfg[f'{split}_dataloader'], ''):
        kind = dataset_class(cfg, node)
        if not isinstance(kind, type) or not issubclass(kind, BaseDataset):
            continue
        dataset = described(cfg, node)
        if not dataset.metainfo.get('classes'):
            continue
        classes = yield from classes_of(split, dataset, expected)
        if cfg.get('default_scope') == 'mmdet' and reads_as(dataset, 'CocoDataset'):
            content = yield from coco.read(split, dataset.ann_file)
            if content:
                yield from coco.check_classes(split, dataset.ann_file, content, classes)
        if not expected:
            expected = classes
            yield from check_heads(cfg, classes)
    yield from check_evaluators(cfg, split)
    return expected


def _stop_at_a_problem(findings: Findings[T]) -> T:
    """What a check returns; UsageError at its first problem."""
    while True:
        try:
            finding = next(findings)
        except StopIteration as end:
            return end.value
        if finding.level == 'problem':
            raise UsageError(str(finding).removeprefix('problem: '))


def check_masks(cfg: Mapping[str, Any], split: str) -> None:
    """Check that COCO's code can evaluate every mask that a split asks it to: it would stop after the last image.

    Raises:
        UsageError: naming the first annotations that it cannot.
    """
    for evaluator in evaluators(cfg, split):
        file, metrics = evaluator.get('ann_file'), evaluator.get('metric') or ()
        if not file or '://' in file or 'segm' not in ([metrics] if isinstance(metrics, str) else metrics):
            continue
        annotations = json.loads(Path(file).read_bytes()).get('annotations', ())
        wrong = [annotation.get('id') for annotation in annotations
                 if not coco.evaluates(annotation.get('segmentation'))]
        if wrong:
            raise UsageError(f'{file}: {len(wrong)} annotation(s) have no mask that can be evaluated, by id: '
                             f'{some(wrong, NAMED)}; a mask is a run-length code or polygons of at least three corners')
