"""Checks of data sets of images and label maps."""
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmattn.datasets.findings import (
    Finding,
    Findings,
    by,
    check_files,
    check_whole,
    counted,
    fact,
    first,
    problem,
    spread,
    warning,
)
from mmattn.errors import UsageError


def check_label_maps(place: str, dataset: Any, classes: Sequence[str], limit: int) -> Findings[None]:
    """The images and label maps of a data set of mmseg.

    Raises:
        UsageError: it is of another kind.
    """
    from mmseg.datasets import BaseSegDataset
    if not isinstance(dataset, BaseSegDataset):
        raise UsageError(f'{place}: {type(dataset).__name__} is not a BaseSegDataset')
    maps = {item['img_path']: item.get('seg_map_path') for item in dataset.load_data_list()}
    folders = {key: dataset.data_prefix.get(key) or '' for key in ('img_path', 'seg_map_path')}
    yield fact(place, f'{len(maps)} images, {len(classes)} classes, reduce_zero_label={dataset.reduce_zero_label}')
    if not maps:
        yield problem(place, f'no file in {folders["img_path"]} ends in {dataset.img_suffix}')
        return
    images = yield from check_files(place, 'image', maps)
    present = set((yield from check_files(place, 'label map', maps.values())))
    if not dataset.ann_file:
        alone = {str(path) for path in Path(folders['seg_map_path']).rglob(f'*{dataset.seg_map_suffix}')}
        alone -= {os.path.normpath(path) for path in maps.values()}
        yield from counted(warning, place, 'label map(s) without an image', sorted(alone))
    read = spread([path for path in images if maps[path] in present], limit)
    sizes = yield from check_whole(place, 'image', read, lambda image: image.size)
    yield fact(place, f'read {len(sizes)} of {len(maps)} images')
    facts = yield from check_whole(place, 'label map', [maps[path] for path in read], lambda image: (
        image.size, image.getbands(), np.unique(image).tolist() if len(image.getbands()) == 1 else ()))
    yield from counted(problem, place, 'label map(s) not of the size of their image', [
        f'{maps[path]} ({by(facts[maps[path]][0])}, not {by(size)})' for path, size in sizes.items()
        if maps[path] in facts and facts[maps[path]][0] != size])
    yield from counted(problem, place, 'label map(s) of several channels, where a pixel is one number',
                       [f'{path} ({"".join(bands)})' for path, (_, bands, _) in facts.items() if len(bands) != 1])
    if classes and facts:
        yield from check_labels(place, dataset, classes, {path: values for path, (_, _, values) in facts.items()})


def check_labels(place: str, dataset: Any, classes: Sequence[str],
                 values: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    """The values in label maps are those of the classes, or ignored."""
    start, ignored = int(dataset.reduce_zero_label), dataset.ignore_index
    legal = range(start + len(dataset.label_map or classes))
    outside = {path: [v for v in found if v not in legal and v != ignored] for path, found in values.items()}
    yield from counted(problem, place, f'label map(s) with values other than 0 to {legal[-1]} and {ignored} '
                       f'(reduce_zero_label={dataset.reduce_zero_label}, {len(classes)} classes)',
                       [f'{path} ({first(found)})' for path, found in outside.items() if found])
    occurring = {value - start for value in set().union(*values.values()).intersection(legal[start:])}
    if dataset.label_map:       # from the library's classes to a choice of them
        occurring = {dataset.label_map[label] for label in occurring}
    occurring -= {ignored, 255}
    kind = warning if len(occurring) < min(2, len(classes)) else fact
    yield kind(place, f'{len(occurring)} of {len(classes)} classes occur in the {len(values)} label maps read')
