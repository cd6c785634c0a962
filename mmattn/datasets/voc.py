"""Checks of data sets in the format of Pascal VOC: a list of images, and an XML file for each."""
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmattn.datasets.findings import Finding, Findings, check_files, check_sizes, counted, fact, problem, warning
from mmattn.datasets.loading import reason


@dataclass
class Annotation:
    """What an XML file says of its image.

    Args:
        size: (width, height) of the image in pixels; None where it does not say.
        objects: name of the class and (left, top, right, bottom) of each.
    """
    size: tuple[int, int] | None
    objects: list[tuple[str, tuple[float, ...]]]


def check_voc(place: str, dataset: Any, classes: Sequence[str], limit: int) -> Findings[None]:
    """The list and the XML files of a data set, then its images."""
    try:
        numbers = Path(dataset.ann_file).read_text().split('\n')
    except OSError as error:
        yield problem(place, f'{dataset.ann_file} cannot be read: {reason(error)}')
        return
    numbers = [number.rstrip('\r') for number in numbers if number.strip()]
    if not numbers:
        yield problem(place, f'{dataset.ann_file} lists no image')
        return
    yield from counted(problem, place, f'image(s) that {dataset.ann_file} lists several times',
                       [number for number, n in Counter(numbers).items() if n > 1])
    root = Path(dataset.sub_data_root)
    files = {str(root / dataset.ann_subdir / f'{number}.xml'): str(root / dataset.img_subdir / f'{number}.jpg')
             for number in numbers}
    present = yield from check_files(place, 'XML file', files)
    known, broken = {}, []
    for path in present:
        try:
            known[path] = parse(path)
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
            broken.append(f'{path} ({reason(error)})')
    yield from counted(problem, place, 'XML file(s) that cannot be read', broken)
    count = sum(len(annotation.objects) for annotation in known.values())
    bare = sum(not annotation.objects for annotation in known.values())
    yield fact(place, f'{len(numbers)} images ({bare} without a box), {count} boxes')
    yield from check_objects(place, known, classes)
    yield from check_sizes(place, 'the XML file', {
        files[path]: annotation.size for path, annotation in known.items() if annotation.size}, limit)


def parse(path: str) -> Annotation:
    """Read an XML file.

    Raises:
        ElementTree.ParseError, AttributeError, TypeError, ValueError: it has not the form of one.
    """
    root = ElementTree.parse(path).getroot()
    size = root.find('size')

    def number(node: Any, name: str) -> float:
        return float(node.find(name).text)

    objects = [(str(node.find('name').text), tuple(number(node.find('bndbox'), side)    # type: ignore[union-attr]
                                                   for side in ('xmin', 'ymin', 'xmax', 'ymax')))
               for node in root.findall('object')]
    return Annotation(None if size is None else (int(number(size, 'width')), int(number(size, 'height'))), objects)


def check_objects(place: str, known: dict[str, Annotation], classes: Sequence[str]) -> Iterator[Finding]:
    """Names are those of the classes, and boxes have a size and lie inside of their image."""
    names = Counter(name for annotation in known.values() for name, _ in annotation.objects)
    extra = [f'{name} ({n})' for name, n in names.most_common() if name not in classes]
    yield from counted(warning, place, 'name(s) of objects are no classes, and mmdet drops their boxes, here with how '
                                       'many', extra)
    yield from counted(warning, place, 'class(es) without a box, whose figures will be nan',
                       [name for name in classes if not names[name]])
    small, outside = [], []
    for path, annotation in known.items():
        width, height = annotation.size or (float('inf'), float('inf'))
        for name, (left, top, right, bottom) in annotation.objects:
            if right - left < 1 or bottom - top < 1:
                small.append(f'{name} in {Path(path).name}')
            elif min(left, top) < 0 or right > width + 1 or bottom > height + 1:
                outside.append(f'{name} in {Path(path).name}')
    yield from counted(warning, place, 'box(es) less than a pixel wide or high, whose loss is infinite unless '
                                       'filter_cfg leaves them out by bbox_min_size=1', small)
    yield from counted(warning, place, 'box(es) reach out of their image', outside)
