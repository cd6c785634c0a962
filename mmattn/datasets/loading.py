"""Samples that cannot be loaded: found, named, left out.

OpenCV may decode a JPEG that is cut short into an image with a grey rest, without a word, and decoding twice would be
slow. So the end of JPEG and PNG files is looked for, and only what lacks it is decoded to know.
"""
import logging
import os
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from PIL import Image, ImageFile, ImageOps

from mmattn.config import named
from mmattn.registry import TRANSFORMS

JPEG, SCAN, JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
PNG, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
ORIENTATION = 0x0112    # of EXIF
IGNORED = 255       # the label that mmseg leaves out unless told otherwise
IN_A_ROW = 100      # samples that fail one after the other, which end a training
NAMED = 20          # warnings of a process


def decode(path: str | os.PathLike[str]) -> Image.Image:
    """An image file, decoded to its end and turned as its EXIF says, as mmcv turns it.

    Raises:
        Exception: what Pillow raises where a file is damaged or no image.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    content = Path(path).read_bytes()
    if not content:
        raise ValueError('0 bytes')
    with Image.open(path) as image:
        image.verify()      # of PNG the checksums, which load() does without
    if content.startswith(PNG) and PNG_END not in content:
        raise ValueError('the end of the PNG is missing')
    with Image.open(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def has_end(content: bytes) -> bool:
    """Whether bytes are those of a JPEG or PNG file with its end; False where only decoding can tell."""
    if content.startswith(PNG):
        return content.endswith(PNG_END)
    start = 2       # past the segments of the header, which may hold a whole thumbnail
    while content[start:start + 1] == b'\xff' and content[start:start + 2] != SCAN:
        start += 2 + int.from_bytes(content[start + 2:start + 4], 'big')
    end = content.rfind(JPEG_END)       # in a scan, FF is followed by 00 or D0 to D7
    return content.startswith(JPEG) and content[start:start + 2] == SCAN and end > start and SCAN not in content[end:]


def glance(path: str | os.PathLike[str]) -> tuple[tuple[int, int], str] | None:
    """(H, W) and mode of a JPEG or PNG file that is whole and upright; None where only decoding can tell."""
    content = Path(path).read_bytes()
    try:
        with Image.open(BytesIO(content)) as image:
            known = image.size[::-1], image.mode
            upright = 'exif' not in image.info or image.getexif().get(ORIENTATION, 1) == 1
            image.verify()
    except Exception:       # Pillow's decoders raise what they like
        return None
    return known if upright and has_end(content) else None


def reason(error: BaseException) -> str:
    """An exception in half a line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())}'[:200]


def loading_steps(pipeline: Sequence[Any]) -> list[Any]:
    """The steps of a pipeline, as a config has it, that load an image file and its annotations, wherever they are."""
    names = [named(step) for step in pipeline]
    from_file = names[:1] == ['LoadImageFromFile']
    return [step for step, name in zip(pipeline, names) if from_file and name.startswith('Load')]


@TRANSFORMS.register_module()
class LoadOrSkip:
    """The loading steps of a training pipeline; a sample that they fail on is named in a warning and gives None, upon
    which MMEngine's data sets take another one at random.

    Also skipped: an image that is not of the size that its annotations are for, a label map of another size than its
    image, labels outside the classes.

    Args:
        transforms: the steps, LoadImageFromFile first.
        classes: number of classes in label maps; None takes any label.
        log: file that gets a line for each skipped sample, of all processes together.
        ignore_index: label that is of no class.

    Raises:
        RuntimeError: many samples in a row cannot be loaded.
    """

    def __init__(self, transforms: list[Any], classes: int | None = None, *, log: str | None = None,
                 ignore_index: int = IGNORED) -> None:
        self.transforms = Compose(transforms)
        self.classes = classes
        self.log = log
        self.ignore_index = ignore_index
        self._known: set[str] = set()
        self._in_a_row = 0

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        try:
            results = self.load(results)
            self._check_size(results)
        except Exception as error:      # decoders and annotations fail in many ways
            self._skip(results['img_path'], reason(error))
            return None
        self._in_a_row = 0
        return results

    def load(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load a sample.

        Raises:
            Exception: its image or its annotations cannot be loaded, or do not fit the model.
        """
        for path in (results['img_path'], results.get('seg_map_path')):
            if path and os.path.isfile(path):       # the others are on the steps: missing, or not in a file system
                content = Path(path).read_bytes()
                if not content or (content.startswith((JPEG, PNG)) and not has_end(content)):
                    decode(path)
        results = self.transforms(dict(results))
        labels, shape = results.get('gt_seg_map'), results['img_shape'][:2]
        if labels is not None and labels.shape != shape:
            raise ValueError(f'the label map is of shape {labels.shape}, the image {shape}')
        if labels is not None and self.classes is not None:
            outside = labels[(labels >= self.classes) & (labels != self.ignore_index)]
            if outside.size:
                raise ValueError(f'label {outside[0]} in a label map, the classes are 0 to {self.classes - 1}')
        return results

    def _check_size(self, results: dict[str, Any]) -> None:
        said, shape = (results.get('height'), results.get('width')), results['img_shape'][:2]
        if None not in said and said != shape:
            raise ValueError(f'the image is {shape[1]}x{shape[0]}, its annotations are for {said[1]}x{said[0]}')

    def _skip(self, path: str, why: str) -> None:
        self._in_a_row += 1
        if self._in_a_row == IN_A_ROW:
            raise RuntimeError(f'{IN_A_ROW} samples in a row cannot be loaded, the last: {path}: {why}; '
                               'tools/check_data.py says what is wrong with a data set')
        if path in self._known or (self.log and path in read_log(self.log)):
            return
        self._known.add(path)
        if self.log:
            with open(self.log, 'a') as file:       # of many processes: a short line is written at once
                file.write(f'{path}\t{why}\n')
        if len(self._known) <= NAMED:
            print_log(f'skipped {path}: {why}', logger='current', level=logging.WARNING)


def read_log(path: str | os.PathLike[str]) -> dict[str, str]:
    """The images that LoadOrSkip wrote into its file, and what is wrong with them."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else ()
    return dict(line.split('\t', 1) for line in lines)


def find_unloadable(dataset: BaseDataset, steps: list[Any], positions: Iterable[int]) -> dict[int, tuple[str, str]]:
    """The samples of a data set that its loading steps fail on; few images are decoded for that.

    Args:
        dataset: a data set of mmdet or mmseg.
        steps: the loading steps of its pipeline.
        positions: which samples to look at.

    Returns:
        by position, the image and what is wrong with it.
    """
    load = LoadOrSkip(steps).load
    with_mask = any(step.get('with_mask') for step in steps)
    found = {}
    for i in positions:
        sample = dataset.get_data_info(i)
        try:
            if not _loads(sample, with_mask):
                load(sample)
        except Exception as error:
            found[i] = sample['img_path'], reason(error)
    return found


def _loads(sample: dict[str, Any], with_mask: bool) -> bool:
    """Whether a sample can be loaded for certain."""
    paths = [path for path in (sample['img_path'], sample.get('seg_map_path')) if path]
    known = [glance(path) if os.path.isfile(path) else None for path in paths]
    if known[0] is None or None in known:
        return False
    shape = known[0][0]
    if known[1:] and (known[1] not in ((shape, 'L'), (shape, 'P')) or 1 in shape):      # mmseg squeezes label maps
        return False
    masks = [instance.get('mask') for instance in sample.get('instances', ()) if with_mask]
    return all(isinstance(mask, list) or (isinstance(mask, dict) and tuple(mask.get('size', ())) == shape)
               for mask in masks)
