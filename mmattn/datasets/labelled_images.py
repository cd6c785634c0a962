"""Checks of data sets of images that have one label each."""
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmattn.datasets.findings import (
    Findings,
    check_files,
    check_whole,
    counted,
    fact,
    problem,
    spread,
    warning,
)
from mmattn.errors import UsageError


def check_labelled_images(place: str, dataset: Any, classes: Sequence[str], limit: int) -> Findings[None]:
    """The images and labels of a data set of mmpretrain.

    Raises:
        UsageError: its images have not one label each.
    """
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    labels = {item['img_path']: item.get('gt_label') for item in items}
    if not all(isinstance(label, int) for label in labels.values()):
        raise UsageError(f'{place}: {type(dataset).__name__} has not one label for each image')
    yield fact(place, f'{len(labels)} images, {len(classes)} classes')
    counts = Counter(labels.values())
    yield from counted(problem, place, f'image(s) with labels other than 0 to {len(classes) - 1}',
                       [f'{path} ({label})' for path, label in labels.items() if label not in range(len(classes))])
    yield from counted(warning, place, 'class(es) without an image',
                       [name for i, name in enumerate(classes) if i not in counts])
    if counts:
        names = dict(enumerate(classes))
        rare, often = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        yield fact(place, f'from {counts[rare]} ({names.get(rare, rare)}) to {counts[often]} '
                          f'({names.get(often, often)}) images of a class')
    present = yield from check_files(place, 'image', labels)
    read = yield from check_whole(place, 'image', spread(present, limit), lambda image: image.size)
    yield fact(place, f'read {len(read)} of {len(labels)} images')
