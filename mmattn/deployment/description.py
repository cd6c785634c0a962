"""What an ONNX file says of itself: how to make its input of an image, and what its outputs are.

The same is in the file's metadata, a JSON value for each field, and in a JSON file beside it.
"""
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import ceil, log
from pathlib import Path
from typing import Any

from mmattn.errors import UsageError

FORMAT = 1


@dataclass(frozen=True)
class Resize:
    """Resizing to `width` x `height` pixels by bilinear interpolation.

    Args:
        width: of the box.
        height: of the box.
        keep_ratio: the image becomes as large as fits into the box, instead of filling it.
        turn: the box of an upright image has its longer side upright, of another image across.
    """
    width: int
    height: int
    keep_ratio: bool
    turn: bool

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of these gets."""
        if not self.keep_ratio:
            return self.height, self.width
        box = [self.height, self.width]
        if self.turn:
            box.sort(reverse=height > width)
        factor = min(box[0] / height, box[1] / width)
        return int(height * factor + 0.5), int(width * factor + 0.5)


@dataclass(frozen=True)
class Padding:
    """Padding to the right and below: to a size, then to a square, then to multiples of a divisor.

    Args:
        value: of the new pixels, one for each channel.
        height: least height; None for that of the image.
        width: least width; None for that of the image.
        square: both sides become as long as the longer one.
        divisor: of both sides.
    """
    value: tuple[float, ...]
    height: int | None = None
    width: int | None = None
    square: bool = False
    divisor: int = 1

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of these gets."""
        sides = max(height, self.height or 0), max(width, self.width or 0)
        if self.square:
            sides = max(sides), max(sides)
        return ceil(sides[0] / self.divisor) * self.divisor, ceil(sides[1] / self.divisor) * self.divisor


@dataclass(frozen=True)
class Preprocessing:
    """From the pixels of an image, 0 to 255, to the input, in this order.

    Args:
        resize: None where the image keeps its size.
        pad_pixels: padding before `mean` is taken off; None for none.
        colour_order: 'RGB' or 'BGR', of the channels.
        mean: of each channel in that order; it is taken off.
        std: of each channel; what is left is divided by it.
        pad: padding of the result.
        other_steps: of the pipeline of the tests, that are not described here.
    """
    resize: Resize | None
    pad_pixels: Padding | None
    colour_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: Padding
    other_steps: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> 'Preprocessing':
        """Of the values of a JSON file."""
        records = dict(resize=Resize, pad_pixels=Padding, pad=Padding)
        return cls(**{key: records[key](**value) if key in records and value else value
                      for key, value in values.items()})


@dataclass(frozen=True)
class Description:
    """A file for deployment.

    Args:
        model: its name.
        task: 'detection' or 'segmentation'.
        classes: their names, in the order of the labels.
        input: name, shape and dtype; a side that is free has a name instead of a number.
        preprocessing: how to make the input.
        outputs: name, shape, dtype and meaning of each.
        suppression: the thresholds and limits of the detections; None for a segmentor.
        checkpoint: the file of the weights, and its SHA-256.
        versions: of the packages that wrote the file, and the opset.
        format: of this description.
    """
    model: str
    task: str
    classes: tuple[str, ...]
    input: dict[str, Any]
    preprocessing: Preprocessing
    outputs: tuple[dict[str, Any], ...]
    suppression: dict[str, Any] | None
    checkpoint: dict[str, Any]
    versions: dict[str, Any]
    format: int = FORMAT

    def to_json(self) -> str:
        """The whole as a JSON file has it."""
        return json.dumps(asdict(self), indent=2) + '\n'

    def to_metadata(self) -> dict[str, str]:
        """A JSON value for each field."""
        return {key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], file: str | Path) -> 'Description':
        """Of the metadata of a file.

        Raises:
            UsageError: it was not written by `mmattn export`, or by another version that wrote it differently.
        """
        names = [field.name for field in fields(cls)]
        if not set(names) <= set(metadata) or metadata['format'] != str(FORMAT):
            raise UsageError(f'{file} was not written by this version of mmattn export: its metadata is missing or '
                             'differs')
        values = {name: json.loads(metadata[name]) for name in names}
        return cls(**{**values, 'preprocessing': Preprocessing.read(values['preprocessing'])})

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input; None where they are free."""
        height, width = self.input['shape'][2:]
        return (height, width) if isinstance(height, int) else None

    @property
    def lowest_logit(self) -> float:
        """Above which a pixel is of the only class of a segmentor."""
        threshold = self.outputs[0].get('threshold', 0.5)
        return log(threshold / (1 - threshold))
