"""Checks of data sets in COCO format: the annotation file, its classes, its boxes."""
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmattn.datasets.findings import Finding, Findings, check_sizes, counted, fact, first, problem, warning
from mmattn.datasets.loading import reason

PARTS = ('images', 'annotations', 'categories')
NEEDED = dict(images=('id', 'file_name', 'width', 'height'), categories=('id', 'name'),
              annotations=('id', 'image_id', 'category_id', 'bbox'))
Coco = dict[str, list[dict[str, Any]]]


def check_coco(split: str, place: str, dataset: Any, classes: Sequence[str], with_masks: bool,
               limit: int) -> Findings[None]:
    """The annotation file of a data set, then its images."""
    coco = yield from read(place, dataset.ann_file)
    if coco is None:
        return
    images, annotations, categories = (coco[part] for part in PARTS)
    bare = len({image.get('id') for image in images} - {annotation.get('image_id') for annotation in annotations})
    yield fact(place, f'{len(images)} images ({bare} without a box), {len(annotations)} boxes, {len(categories)} '
                      'categories')
    for part in PARTS:
        if not coco[part]:
            yield (warning if split == 'test' else problem)(place, f'{dataset.ann_file} has no {part}')
    also = ['area'] + ['segmentation'] * with_masks + ['iscrowd'] * (split != 'train')      # evaluation reads iscrowd
    yield from check_keys(place, coco, dict(annotations=also))
    if with_masks:
        yield from counted(problem, place, 'mask(s) with a polygon of less than three corners, by position', [
            i for i, entry in enumerate(annotations)
            if entry.get('segmentation') and not evaluates(entry['segmentation'])])
    unreadable = list(check_keys(place, coco, NEEDED))
    if unreadable:
        yield from unreadable
        return
    for part in PARTS:
        ids = Counter(entry['id'] for entry in coco[part])
        yield from counted(problem, place, f'id(s) used by several {part}', [i for i, n in ids.items() if n > 1])
    if images and categories:
        yield from check_references(place, dataset.ann_file, coco)
        if classes:
            yield from check_classes(place, dataset.ann_file, coco, classes)
            used = Counter(annotation['category_id'] for annotation in annotations)
            if annotations:
                yield from counted(warning, place, 'class(es) without a box, whose figures will be nan', [
                    category['name'] for category in categories
                    if category['name'] in classes and not used[category['id']]])
        yield from check_boxes(place, images, annotations)
    folder = Path(dataset.data_prefix['img'])
    yield from check_sizes(place, 'the annotation file', {
        str(folder / image['file_name']): (image['width'], image['height']) for image in images}, limit)


def read(place: str, file: str) -> Findings[Coco | None]:
    """The content of an annotation file; None where it has not the form of one."""
    try:
        coco = json.loads(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        yield problem(place, f'{file} cannot be read: {reason(error)}')
        return None
    lacking = [part for part in PARTS if not isinstance(coco, dict) or not isinstance(coco.get(part), list)
               or not all(isinstance(entry, dict) for entry in coco[part])]
    if lacking:
        yield problem(place, f'{file} has no list of records called {", ".join(lacking)}')
        return None
    return {part: coco[part] for part in PARTS}


def check_keys(place: str, coco: Coco, needed: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """Every entry of a list has the keys that are needed."""
    for part, keys in needed.items():
        for key in keys:
            yield from counted(problem, place, f"{part} without '{key}', by position", [
                i for i, entry in enumerate(coco[part]) if entry.get(key) in (None, [])])


def check_references(place: str, file: str, coco: Coco) -> Iterator[Finding]:
    """Annotations belong to images and categories of the file."""
    images = {image['id'] for image in coco['images']}
    known = {category['id'] for category in coco['categories']}
    yield from counted(problem, place, f'box(es) of images that {file} does not list, by image id',
                       [a['image_id'] for a in coco['annotations'] if a['image_id'] not in images])
    yield from counted(problem, place, f'box(es) of categories that {file} does not define, by category id',
                       [a['category_id'] for a in coco['annotations'] if a['category_id'] not in known])


def check_classes(place: str, file: str, coco: Coco, classes: Sequence[str]) -> Iterator[Finding]:
    """The categories of the file are the classes, in their order."""
    known = {category.get('id'): category.get('name') for category in coco['categories']}
    used = [annotation.get('category_id') for annotation in coco['annotations']]
    names = list(known.values())
    absent = [c for c in classes if c not in names]
    extra = [f'{n} (id {i})' for i, n in known.items() if n not in classes]
    dropped = sum(known.get(i, classes[0]) not in classes for i in used)
    drops = f'the file alone has {first(extra)}, and mmdet drops their {dropped} of {len(used)} boxes'
    if absent:
        yield problem(place, f'metainfo.classes are not the categories of {file}: the config alone has '
                             f'{first(absent)}{"; " + drops if extra else ""}')
    elif [name for name in names if name in classes] != list(classes):
        yield problem(place, f'metainfo.classes are in another order than the categories of {file}, and mmdet counts '
                             f'in the order of the file: {first(names)}')
    elif extra:
        yield warning(place, drops)


def check_boxes(place: str, images: Iterable[dict[str, Any]],
                annotations: Iterable[dict[str, Any]]) -> Iterator[Finding]:
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
    yield from counted(problem, place, 'box(es) not four numbers, by id', wrong)
    yield from counted(warning, place, 'box(es) less than a pixel wide or high or without area, which mmdet drops, by '
                                       'id', small)
    yield from counted(warning, place, 'box(es) reach out of their image (x, y, width, height are expected), by id',
                       outside)


def evaluates(mask: Any) -> bool:
    """Whether pycocotools takes a mask: a run-length code, or polygons, the first of more than two corners."""
    return isinstance(mask, dict) or bool(mask and len(mask[0]) > 4)
