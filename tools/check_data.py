"""Check a data set before training: python tools/check_data.py CONFIG

Every check yields lines to print: what there is, 'warning: …' for what training survives, 'problem: …' for the rest.
"""
import argparse
import json
import logging
import math
import os
import sys
import warnings
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path

import numpy as np
from PIL import Image

import common_data
from common import UsageError, add_config, changed_config, run
from mmattn.datasets.loading import IGNORED, decode

SPLITS = ('train', 'val', 'test')
NEEDED = dict(images=('id', 'file_name', 'width', 'height'), categories=('id', 'name'),
              annotations=('id', 'image_id', 'category_id', 'bbox'))
VISUALIZERS = dict(mmdet=dict(type='DetLocalVisualizer', line_width=2, alpha=0.6),
                   mmseg=dict(type='SegLocalVisualizer', alpha=0.5))
NOT_HEADS = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor')
SHOWN = 3           # names in a line
DRAWN = 8           # images of the batch in the picture and in lines


def parse_args():
    parser = argparse.ArgumentParser(description='Check the data set of a config before training.')
    add_config(parser)
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=SPLITS, help='default: all')
    parser.add_argument('--limit', type=int, default=200, metavar='N',
                        help='most images of a data set to decode, spread over it; 0: all; default %(default)s')
    parser.add_argument('--out', metavar='PICTURE.png',
                        help='picture of a training batch; default work_dirs/check_data/<name of the config>.png')
    return parser.parse_args()


def check(cfg, out, splits=SPLITS, limit=200):
    """Check the data sets of a config, then draw a training batch into the file `out`.

    Raises:
        UsageError: the config is of another library, or a data set is in another format.
    """
    if cfg.get('default_scope') not in VISUALIZERS:
        raise UsageError(f'default_scope={cfg.get("default_scope")!r}: only mmdet and mmseg configs can be checked')
    splits = [split for split in splits if cfg.get(f'{split}_dataloader')]
    faulty = False
    for line in check_splits(cfg, splits, limit):
        faulty |= line.startswith('problem: train')
        yield line
    if 'train' in splits:
        yield from guarded('no batch' if faulty else 'problem: no batch', check_batch(cfg, out))


def check_splits(cfg, splits, limit):
    """Every data set of the splits, and the model's heads against the first one's classes."""
    expected = None
    for split in splits:
        if split == 'test' and 'val' in splits and all(
                cfg.get(f'test_{part}') == cfg.get(f'val_{part}') for part in ('dataloader', 'evaluator')):
            yield 'test: the same as val'
            continue
        try:
            common_data.check_data(cfg, split)
        except UsageError as error:
            yield f'problem: {split}: {error}'
            continue
        nodes = dict(common_data.datasets_below(cfg[f'{split}_dataloader'], f'{split}_dataloader'))
        for key, node in nodes.items():
            name = split if len(nodes) == 1 else key
            lines = check_dataset(cfg, split, name, node, expected, limit)
            classes = yield from guarded(f'problem: {name}', lines)
            if classes and not expected:
                expected = classes
                yield from check_heads(cfg.get('model'), classes)
        yield from check_evaluator(cfg, split, nodes.values())


def check_dataset(cfg, split, name, node, expected, limit):
    """One data set; returns its classes."""
    from mmengine.registry import DATASETS, DefaultScope
    with DefaultScope.overwrite_default_scope(cfg.default_scope), quiet():
        dataset = DATASETS.build({**node, 'pipeline': [], 'lazy_init': True})
    classes = dataset.metainfo.get('classes') or ()
    if not classes or isinstance(classes, str):
        yield f"problem: {name}: metainfo.classes is {classes!r}; it takes names, a single one as classes=('name',)"
        classes = ()
    classes = tuple(classes)
    agree = not expected or not classes or classes == expected
    if not agree:
        yield (f'problem: {name}: metainfo.classes are {len(classes)} ({first(classes)}), those of the first split '
               f'{len(expected)} ({first(expected)})')
    if cfg.default_scope == 'mmseg':
        yield from check_masks(name, dataset, classes, limit)
    else:
        with_masks = any(transform.get('with_mask') for transform in node.get('pipeline', ()))
        yield from check_coco(split, name, dataset, classes if agree else (), with_masks, limit)
    return classes


def check_heads(model, classes):
    """Every num_classes of the model's heads is the number of classes."""
    wrong = [f'{key}={value}' for key, value in heads(model or {}, 'model') if value != len(classes)]
    if wrong:
        yield f'problem: {", ".join(wrong)}: the data set has {len(classes)} classes, set {len(classes)}'


def heads(node, key):
    """The key and the value of every num_classes below the heads of a model."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in children:
        if name == 'num_classes':
            yield f'{key}.{name}', value
        elif name not in NOT_HEADS:
            yield from heads(value, f'{key}.{name}')


def check_evaluator(cfg, split, nodes):
    """The evaluator reads the annotation file of the data set."""
    files = [os.path.join(node.get('data_root') or '', node.get('ann_file') or '') for node in nodes]
    for evaluator in common_data.evaluators(cfg, split):
        file = evaluator.get('ann_file')
        if file and os.path.realpath(file) not in map(os.path.realpath, files):
            yield f'warning: {split}: {split}_evaluator.ann_file is {file}, but the data set reads {first(files)}'


def check_coco(split, name, dataset, classes, with_masks, limit):
    """A data set in COCO format: its file, then its images."""
    from mmdet.datasets import CocoDataset
    if type(dataset).load_data_list is not CocoDataset.load_data_list:
        raise UsageError(f'{name}: {type(dataset).__name__} does not read its file as CocoDataset does')
    try:
        coco = json.loads(Path(dataset.ann_file).read_bytes())
    except (OSError, ValueError) as error:
        yield f'problem: {name}: {dataset.ann_file} cannot be read: {brief(error)}'
        return
    parts = ('images', 'annotations', 'categories')
    lacking = [part for part in parts if not isinstance(coco, dict) or not isinstance(coco.get(part), list)
               or not all(isinstance(entry, dict) for entry in coco[part])]
    if lacking:
        yield f'problem: {name}: {dataset.ann_file} has no list of records called {", ".join(lacking)}'
        return
    images, annotations, categories = (coco[part] for part in parts)
    bare = len({image.get('id') for image in images} - {annotation.get('image_id') for annotation in annotations})
    yield f'{name}: {len(images)} images ({bare} without a box), {len(annotations)} boxes, {len(categories)} categories'
    for part, entries in zip(parts, (images, annotations, categories)):
        if not entries:
            yield f'{"warning" if split == "test" else "problem"}: {name}: {dataset.ann_file} has no {part}'
    also = ['area'] + ['segmentation'] * with_masks + ['iscrowd'] * (split != 'train')      # evaluation reads iscrowd
    yield from check_keys(name, coco, dict(annotations=also))
    if with_masks:
        yield from report('problem', name, 'mask(s) with a polygon of less than three corners, by position', [
            i for i, entry in enumerate(annotations)
            if entry.get('segmentation') and not common_data.evaluates(entry['segmentation'])])
    unreadable = list(check_keys(name, coco, NEEDED))
    if unreadable:
        yield from unreadable
        return
    for part in parts:
        ids = Counter(entry['id'] for entry in coco[part])
        yield from report('problem', name, f'id(s) used by several {part}', [i for i, n in ids.items() if n > 1])
    if images and categories:
        yield from check_references(name, dataset.ann_file, images, annotations, categories, classes)
        yield from check_boxes(name, images, annotations)
    files = {os.path.join(dataset.data_prefix['img'], image['file_name']): image for image in images}
    present = yield from check_files(name, 'image', files)
    sizes = yield from check_whole(name, 'image', spread(present, limit), lambda image: image.size)
    yield f'{name}: read {len(sizes)} of {len(images)} images'
    said = {path: (files[path]['width'], files[path]['height']) for path in sizes}
    yield from report('problem', name, 'image(s) not of the size that the annotation file says',
                      [f'{path} ({text(size)}, not {text(said[path])})' for path, size in sizes.items()
                       if size != said[path]])


def check_keys(name, coco, needed):
    """Every entry of a list has the keys that are needed."""
    for part, keys in needed.items():
        for key in keys:
            yield from report('problem', name, f"{part} without '{key}', by position", [
                i for i, entry in enumerate(coco[part]) if entry.get(key) in (None, [])])


def check_references(name, file, images, annotations, categories, classes):
    """Annotations belong to images and categories of the file, and its categories are the classes."""
    images = {image['id'] for image in images}
    known = {category['id']: category['name'] for category in categories}
    used = [annotation['category_id'] for annotation in annotations]
    yield from report('problem', name, f'box(es) of images that {file} does not list, by image id',
                      [a['image_id'] for a in annotations if a['image_id'] not in images])
    yield from report('problem', name, f'box(es) of categories that {file} does not define, by category id',
                      [i for i in used if i not in known])
    if not classes:
        return
    names = list(known.values())
    absent = [c for c in classes if c not in names]
    extra = [f'{n} (id {i})' for i, n in known.items() if n not in classes]
    dropped = sum(known.get(i, classes[0]) not in classes for i in used)
    drops = f'the file alone has {first(extra)}, and mmdet drops their {dropped} of {len(used)} boxes'
    if absent:
        yield (f'problem: {name}: metainfo.classes are not the categories of {file}: the config alone has '
               f'{first(absent)}{"; " + drops if extra else ""}')
    elif extra:
        yield f'warning: {name}: {drops}'
    elif names != list(classes):
        yield (f'problem: {name}: metainfo.classes are in another order than the categories of {file}, and mmdet '
               f'counts in the order of the file: {first(names)}')


def check_boxes(name, images, annotations):
    """Boxes are four numbers, of a size, and inside of their image."""
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    wrong, small, outside = [], [], []
    for annotation in annotations:
        box = annotation['bbox']
        numbers = isinstance(box, list) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in box)
        if not numbers or len(box) != 4:
            wrong.append(annotation['id'])
            continue
        x, y, w, h = box
        width, height = sizes.get(annotation['image_id'], (math.inf, math.inf))
        if w < 1 or h < 1 or annotation.get('area', 1) <= 0:
            small.append(annotation['id'])
        elif min(x, y) < -1 or x + w > width + 1 or y + h > height + 1:
            outside.append(annotation['id'])
    yield from report('problem', name, 'box(es) not four numbers, by id', wrong)
    yield from report('warning', name, 'box(es) less than a pixel wide or high or without area, which mmdet drops, '
                      'by id', small)
    yield from report('warning', name, 'box(es) reach out of their image (x, y, width, height are expected), by id',
                      outside)


def check_masks(name, dataset, classes, limit):
    """A data set of images and label maps."""
    from mmseg.datasets import BaseSegDataset
    if not isinstance(dataset, BaseSegDataset):
        raise UsageError(f'{name}: {type(dataset).__name__} is not a BaseSegDataset')
    maps = {item['img_path']: item.get('seg_map_path') for item in dataset.load_data_list()}
    folders = {key: dataset.data_prefix.get(key) or '' for key in ('img_path', 'seg_map_path')}
    yield f'{name}: {len(maps)} images, {len(classes)} classes, reduce_zero_label={dataset.reduce_zero_label}'
    if not maps:
        yield f'problem: {name}: no file in {folders["img_path"]} ends in {dataset.img_suffix}'
        return
    images = yield from check_files(name, 'image', maps)
    present = set((yield from check_files(name, 'label map', maps.values())))
    if not dataset.ann_file:
        alone = {str(path) for path in Path(folders['seg_map_path']).rglob(f'*{dataset.seg_map_suffix}')}
        alone -= {os.path.normpath(path) for path in maps.values()}
        yield from report('warning', name, 'label map(s) without an image', sorted(alone))
    read = spread([path for path in images if maps[path] in present], limit)
    sizes = yield from check_whole(name, 'image', read, lambda image: image.size)
    yield f'{name}: read {len(sizes)} of {len(maps)} images'
    facts = yield from check_whole(name, 'label map', [maps[path] for path in read], lambda image: (
        image.size, image.getbands(), np.unique(image).tolist() if len(image.getbands()) == 1 else ()))
    yield from report('problem', name, 'label map(s) not of the size of their image', [
        f'{maps[path]} ({text(facts[maps[path]][0])}, not {text(size)})' for path, size in sizes.items()
        if maps[path] in facts and facts[maps[path]][0] != size])
    yield from report('problem', name, 'label map(s) of several channels, where a pixel is one number',
                      [f'{path} ({"".join(bands)})' for path, (_, bands, _) in facts.items() if len(bands) != 1])
    if classes and facts:
        yield from check_labels(name, dataset, classes, {path: values for path, (_, _, values) in facts.items()})


def check_labels(name, dataset, classes, values):
    """The values in label maps are those of the classes, or ignored."""
    start = int(dataset.reduce_zero_label)
    legal = range(start + len(dataset.label_map or classes))
    outside = {path: [v for v in found if v not in legal and v != IGNORED] for path, found in values.items()}
    yield from report('problem', name, f'label map(s) with values other than 0 to {legal[-1]} and {IGNORED} '
                      f'(reduce_zero_label={dataset.reduce_zero_label}, {len(classes)} classes)',
                      [f'{path} ({first(found)})' for path, found in outside.items() if found])
    occurring = {value - start for value in set().union(*values.values()).intersection(legal[start:])}
    if dataset.label_map:       # from the library's classes to a choice of them
        occurring = {dataset.label_map[label] for label in occurring} - {IGNORED}
    level = 'warning: ' if len(occurring) < min(2, len(classes)) else ''
    yield f'{level}{name}: {len(occurring)} of {len(classes)} classes occur in the {len(values)} label maps read'


def check_files(name, kind, paths):
    """Files that are missing or empty; returns the others."""
    sizes = {path: os.path.getsize(path) if os.path.isfile(path) else None for path in paths}
    yield from report('problem', name, f'{kind}(s) missing', [path for path, size in sizes.items() if size is None])
    yield from report('problem', name, f'{kind}(s) of 0 bytes', [path for path, size in sizes.items() if size == 0])
    return [path for path, size in sizes.items() if size]


def check_whole(name, kind, paths, facts):
    """Files that do not decode to their end; returns facts(image) for each of the others."""
    broken, known = [], {}
    for path in paths:
        try:
            known[path] = facts(decode(path))
        except Exception as error:      # Pillow's decoders raise what they like
            broken.append(f'{path} ({brief(error)})')
    yield from report('problem', name, f'{kind}(s) damaged', broken)
    return known


def check_batch(cfg, out):
    """One batch through the training pipeline, its shapes, and its picture."""
    from mmengine.registry import DefaultScope
    from mmengine.runner import Runner, set_random_seed
    settings = deepcopy(cfg.train_dataloader)
    settings.update(num_workers=0, persistent_workers=False)
    for _, node in common_data.datasets_below(settings, ''):
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
    yield f'batch: {len(images)} from {len(loader.dataset)} images, drawn as the model gets them in {out}'
    yield from lines[:DRAWN]


def describe(image, sample):
    """The name of an image, and the shape and type of each tensor of it."""
    values = [('image', image), *sorted(sample.get('gt_instances', {}).items())]
    values += [('label map', value) for _, value in sample.get('gt_sem_seg', {}).items()]
    values = [(key, getattr(value, 'masks', value)) for key, value in values]       # BitmapMasks hold an array
    shapes = [f'{key} {tuple(value.shape)} {str(value.dtype).removeprefix("torch.")}' if hasattr(value, 'shape')
              else f'{key} {len(value)}' for key, value in values]
    return f'  {os.path.basename(sample.get("img_path", "?"))}: {", ".join(shapes)}'


def draw(scope, metainfo, images, samples, out):
    """The images side by side, with their boxes and masks or label maps."""
    from mmengine.registry import VISUALIZERS as registry
    visualizer = registry.build(dict(VISUALIZERS[scope], name='check_data'))
    visualizer.dataset_meta = metainfo
    pictures = []
    for image, sample in zip(images, samples):
        instances = sample.get('gt_instances', {})
        if 'bboxes' in instances:       # the visualizer takes no HorizontalBoxes
            instances.bboxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        image = image.clamp(0, 255).byte().flip(0).permute(1, 2, 0).contiguous().numpy()    # OpenCV's BGR to RGB
        visualizer.add_datasample('', image, sample, draw_pred=False)
        pictures.append(visualizer.get_image())
    height = max(picture.shape[0] for picture in pictures)
    row = [np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0))) for picture in pictures]
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(row, axis=1)).save(out)
    except (OSError, ValueError) as error:
        raise UsageError(f'{out} cannot be written: {error}') from error


def report(level, name, fault, items):
    """One line for all that have the same fault."""
    if items:
        yield f'{level}: {name}: {len(items)} {fault}: {first(list(dict.fromkeys(items)))}'


def guarded(prefix, lines):
    """The lines of a check, and as the last one the exception that ended it: data can be wrong in any way."""
    try:
        return (yield from lines)
    except UsageError:
        raise
    except Exception as error:
        yield f'{prefix}: {brief(error)}'


@contextmanager
def quiet():
    """Without what the libraries print."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(logging.NOTSET)


def brief(error):
    return f'{type(error).__name__}: {" ".join(str(error).split())}'[:200]


def first(items):
    return ', '.join(map(str, items[:SHOWN])) + ', …' * (len(items) > SHOWN)


def text(size):
    return 'x'.join(map(str, size))


def spread(items, limit):
    """At most `limit` of the items, at even distances; 0: all."""
    if not limit or len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def main():
    args = parse_args()
    problems = 0
    out = args.out or str(Path('work_dirs/check_data') / f'{Path(args.config).stem}.png')
    for line in check(changed_config(args), out, args.split, args.limit):
        print(line, flush=True)
        problems += line.startswith('problem: ')
    print(f'{problems} problem(s)')
    sys.exit(bool(problems))


if __name__ == '__main__':
    run(main)
