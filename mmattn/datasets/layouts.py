"""How a folder of data is laid out, found out from its files: COCO, Pascal VOC, or images and label maps."""
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmattn.config import SPLITS
from mmattn.datasets.findings import spread
from mmattn.datasets.voc import parse
from mmattn.errors import UsageError, some

T = TypeVar('T')
IMAGES = '.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'
# What folders and files of a split are called. A validation set may be called a test set, not the other way round.
CALLED = dict(train=('train', 'training', 'train2017', 'trainval'), val=('val', 'valid', 'validation', 'val2017'),
              test=('test', 'testing', 'test2017'))
PAIRS = ('images', 'annotations'), ('images', 'labels'), ('images', 'masks'), ('img_dir', 'ann_dir')
BOXES = ("of COCO, a JSON file for each split with 'train' or 'val' in its name or that of its folder, or of Pascal "
         'VOC, Annotations, JPEGImages and ImageSets/Main/train.txt and val.txt')
MAPS = 'of label maps, images/train, images/val, annotations/train and annotations/val'
DEEP = 3            # folders below the root that are looked into
READ = 200          # label maps of a split whose values are looked at


@dataclass(frozen=True)
class Split:
    """Where the data of a split is, relative to the root.

    Args:
        ann_file: annotation file, or list of images; '' with label maps.
        images: folder of the images.
        maps: folder of the label maps; '' without.
        count: how many images there are.
    """
    ann_file: str
    images: str
    maps: str
    count: int


@dataclass(frozen=True)
class Layout:
    """What there is in a folder of data.

    Args:
        form: of its annotations.
        splits: by 'train', 'val' and 'test'; where one of the last two is missing, it is the other.
        classes: their names, in the order of the file for COCO, of the alphabet for Pascal VOC; none for label maps.
        size: (width, height) of most images, pixels.
        with_masks: whether objects have masks.
        values: those of the label maps that were looked at.
        img_suffix, seg_map_suffix: what is behind the name that an image and its label map share.
    """
    form: Literal['coco', 'voc', 'maps']
    splits: Mapping[str, Split]
    classes: Sequence[str] = ()
    size: tuple[int, int] = (0, 0)
    with_masks: bool = False
    values: Sequence[int] = ()
    img_suffix: str = '.jpg'
    seg_map_suffix: str = '.png'


def find_layout(root: str | os.PathLike[str], segmentation: bool) -> Layout:
    """Find out how a folder of data is laid out.

    Args:
        root: the folder.
        segmentation: whether label maps are wanted, or else boxes; a folder may have both.

    Raises:
        UsageError: there is no such folder, it is in none of the forms, or one of the splits cannot be told.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UsageError(f'data not found: {folder.absolute()}')
    if segmentation:
        pair = next((pair for pair in PAIRS if all(any(below(folder / name, IMAGES)) for name in pair)), None)
        if pair:
            return label_maps(folder, *pair)
        raise UsageError(f'{folder} has not the layout {MAPS}, which a segmentor needs')
    if (folder / 'ImageSets/Main').is_dir():
        return voc(folder)
    if any(below(folder, ('.json',))):
        return coco(folder)
    raise UsageError(f'{folder} has not the layout {BOXES}; a detector needs one of them')


def folders_below(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those in it, in order and some deep, each with the names of its files."""
    for path, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if len(Path(path).relative_to(folder).parts) >= DEEP:
            folders.clear()
        yield Path(path), sorted(names)


def below(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """The files in a folder with one of the suffixes."""
    for path, names in folders_below(folder):
        yield from (path / name for name in names if name.lower().endswith(tuple(suffixes)))


def split_of(path: Path) -> str | None:
    """Which split a path, relative to the root, is of, by the words in it; the last one counts."""
    words = [word for part in path.with_suffix('').parts for word in part.lower().replace('-', '_').split('_')]
    found = [split for word in words for split in SPLITS if word in CALLED[split]]
    return found[-1] if found else None


def completed(root: Path, splits: Mapping[str, Split], form: str) -> Mapping[str, Split]:
    """The splits, where the one to validate on is also the one to test on, if there is no other, and the other way
    round.

    Raises:
        UsageError: there is nothing to train on, or nothing to test on.
    """
    rest = splits.get('val') or splits.get('test')
    if 'train' not in splits or not rest:
        lacking = 'val' if 'train' in splits else 'train'
        raise UsageError(f'{root} has no split called {lacking}, only {", ".join(splits) or "others"}; the layout is '
                         f'{form}')
    return dict(train=splits['train'], val=splits.get('val', rest), test=splits.get('test', rest))


def coco(root: Path) -> Layout:
    """The layout of a folder with annotation files as COCO has them."""
    contents: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    for path in below(root, ('.json',)):
        split = split_of(path.relative_to(root))
        content = content_of(path) if split else None
        if split is None or content is None:
            continue
        if split in files:
            raise UsageError(f'{root} has two annotation files for {split}, {files[split].relative_to(root)} and '
                             f'{path.relative_to(root)}; leave one of them there')
        contents[split], files[split] = content, path
    splits = {split: Split(str(path.relative_to(root)), images_of(root, split, path, contents[split]['images']), '',
                           len(contents[split]['images'])) for split, path in files.items()}
    layout = completed(root, splits, BOXES)
    train = contents['train']
    used = {annotation['category_id'] for annotation in train['annotations']}
    classes = [category['name'] for category in train['categories'] if category['id'] in used]
    return Layout('coco', layout, classes, most((image['width'], image['height']) for image in train['images']),
                  any(annotation.get('segmentation') for annotation in train['annotations']))


def content_of(path: Path) -> dict[str, Any] | None:
    """The content of a file with boxes in COCO's form; None of another.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f'{path} cannot be read: {error}') from error
    parts = [content.get(part) if isinstance(content, dict) else None for part in (
        'images', 'annotations', 'categories')]
    boxes = all(isinstance(part, list) and part for part in parts) and 'bbox' in parts[1][0]      # type: ignore[index]
    return content if boxes else None


def images_of(root: Path, split: str, file: Path, images: Sequence[Mapping[str, Any]]) -> str:
    """The folder, relative to the root, in which the images of an annotation file are.

    Raises:
        UsageError: there is none.
    """
    names = [images[0]['file_name'], images[-1]['file_name']]
    folders = [path for path, _ in folders_below(root) if all((path / name).is_file() for name in names)]
    if not folders:
        raise UsageError(f'{root} has no folder with the images {" and ".join(names)} that {file} lists')
    maps = {name for _, name in PAIRS}      # where label maps may have the names of the images
    best = max(folders, key=lambda path: (
        not maps.intersection(path.relative_to(root).parts), split_of(path.relative_to(root)) == split))
    return '' if best == root else f'{best.relative_to(root)}/'


def voc(root: Path) -> Layout:
    """The layout of a folder as Pascal VOC has it."""
    splits, names = {}, {}
    for split in SPLITS:
        lists = [root / f'ImageSets/Main/{word}.txt' for word in CALLED[split]]
        file = next((path for path in lists if path.is_file()), None)
        if file:
            names[split] = file.read_text().split()
            splits[split] = Split(str(file.relative_to(root)), '', '', len(names[split]))
    layout = completed(root, splits, BOXES)
    annotations = []
    for name in names['train']:
        file = root / 'Annotations' / f'{name}.xml'
        try:
            annotations.append(parse(str(file)))
        except (OSError, ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(f'{file} cannot be read: {error}') from error
    found = {name for annotation in annotations for name, _ in annotation.objects}
    return Layout('voc', layout, sorted(found), most(annotation.size for annotation in annotations if annotation.size))


def label_maps(root: Path, images: str, maps: str) -> Layout:
    """The layout of a folder with a folder of images and one of label maps, each with a folder for each split."""
    splits, first = {}, {}
    for split in SPLITS:
        words = [word for word in CALLED[split] if all((root / part / word).is_dir() for part in (images, maps))]
        if words:
            found = list(below(root / images / words[0], IMAGES))
            splits[split] = Split('', f'{images}/{words[0]}', f'{maps}/{words[0]}', len(found))
            first[split] = found
    layout = completed(root, splits, MAPS)
    suffix, map_suffix = suffixes(root, splits['train'], first['train'])
    values: set[int] = set()
    for part in splits.values():
        for path in spread([*below(root / part.maps, (map_suffix,))], READ):
            values.update(values_of(path))
    return Layout('maps', layout, size=most(map(size_of, first['train'][:READ])), values=sorted(values),
                  img_suffix=suffix, seg_map_suffix=map_suffix)


def suffixes(root: Path, split: Split, images: Sequence[Path]) -> tuple[str, str]:
    """What is behind the name that an image and its label map share.

    Raises:
        UsageError: the first image has no label map.
    """
    suffix = most(path.suffix for path in images)
    name = next(path.relative_to(root / split.images) for path in images if path.suffix == suffix)
    maps = sorted((root / split.maps / name).parent.glob(f'{name.stem}*.png'), key=lambda path: len(path.name))
    if not maps:
        wanted = root / split.maps / name.with_suffix('.png')
        raise UsageError(f'{root / split.images / name} has no label map: {wanted} is missing')
    return suffix, maps[0].name.removeprefix(name.stem)


def values_of(path: Path) -> Iterable[int]:
    """The numbers in a label map.

    Raises:
        UsageError: it cannot be read, or has colours.
    """
    pixels = read(path, np.asarray)
    if pixels.ndim != 2:
        raise UsageError(f'{path} has {pixels.shape[-1]} channels; a label map has one, with the number of the class '
                         'of each pixel')
    return map(int, np.unique(pixels))


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of an image, pixels.

    Raises:
        UsageError: it cannot be read.
    """
    return read(path, lambda image: image.size)


def read(path: Path, what: Callable[[Image.Image], T]) -> T:
    """What a function gives for the image in a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return what(image)
    except OSError as error:
        raise UsageError(f'{path} cannot be read: {error}') from error


def most(values: Iterable[Any]) -> Any:
    """The most frequent of the values; (0, 0) of none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else (0, 0)


def check_classes(layout: Layout, classes: Sequence[str]) -> None:
    """Raise UsageError where the data has no object of one of the classes."""
    unknown = [name for name in classes if name not in layout.classes]
    if unknown:
        raise UsageError(f'--classes {some(unknown)}: the data has no such objects, but {some(layout.classes, 20)}')
