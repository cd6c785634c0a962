"""Running an exported file with numpy, OpenCV and onnxruntime alone."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmattn.deployment.description import Description, Padding, Preprocessing
from mmattn.errors import UsageError

ADVICE = "pip install 'mmattn[export]'"


class Detections(NamedTuple):
    """Of one image, the surest first: boxes (N, 4) float32 as x1, y1, x2, y2 in pixels of the image, scores (N,)
    float32 and labels (N,) int64, indices of the classes."""
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Prepared(NamedTuple):
    """An input (1, 3, H, W), and where the image is in it: the first `height` rows and `width` columns."""
    array: np.ndarray
    height: int
    width: int


class OnnxModel:
    """A model that `mmattn export` wrote.

    Args:
        file: the .onnx file; its metadata says how images become inputs.
        providers: of onnxruntime, the first one that can is taken.

    Example:
        >>> model = OnnxModel('retinanet.onnx')
        >>> boxes, scores, labels = model(cv2.imread('street.jpg'))
        >>> [model.description.classes[label] for label in labels]
        ['car', 'person']

    Raises:
        UsageError: onnxruntime is not installed, or the file is missing, broken or not of `mmattn export`.
    """

    def __init__(self, file: str | Path, providers: Sequence[str] = ('CPUExecutionProvider',)) -> None:
        self.file = Path(file)
        self.session = open_session(self.file, providers)
        self.description = Description.from_metadata(self.session.get_modelmeta().custom_metadata_map, file)

    def run(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by their names.

        Args:
            array: (B, 3, H, W) float32, prepared; rows and columns that are missing at the right and below, and images
                that are missing in the batch, are added as the file pads.

        Raises:
            UsageError: it does not fit the file.
        """
        shape = self.fitted(array.shape)
        value = np.array(self.description.preprocessing.pad.value, np.float32)
        whole = np.broadcast_to(value[:, None, None], shape).copy()
        whole[tuple(slice(side) for side in array.shape)] = array
        outputs = self.session.run(None, {self.description.input['name']: whole})
        names = [output['name'] for output in self.description.outputs]
        return {name: output[:len(array)] for name, output in zip(names, outputs)}

    def fitted(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the input that takes an array."""
        batch, *_ = self.description.input['shape']
        sides = self.description.size or self.description.preprocessing.pad.size(*shape[2:])
        if shape[0] > batch or any(side > most for side, most in zip(shape[2:], sides)):
            raise UsageError(f'{self.file} takes {batch} x 3 x {sides[0]} x {sides[1]}, and the images are '
                             f'{" x ".join(map(str, shape))}: export it with a larger --shape or --batch-size, or with '
                             '--dynamic')
        return batch, 3, *sides

    def prepare(self, image: np.ndarray) -> Prepared:
        """The input that the description asks for.

        Args:
            image: (H, W, 3) uint8 BGR, as OpenCV reads it.

        Raises:
            UsageError: the pipeline of the model has a step that the description does not know.
        """
        others = self.description.preprocessing.other_steps
        if others:
            raise UsageError(f'{self.file}: the pipeline has {", ".join(others)}, which is not described: prepare the '
                             'input yourself and call run()')
        return prepared(image, self.description.preprocessing)

    def __call__(self, image: np.ndarray) -> Detections | np.ndarray:
        """What the model predicts for an image (H, W, 3), uint8 BGR: the detections in pixels of the image, or the
        label map (H, W) of a segmentor.

        Raises:
            UsageError: the file was exported with --raw, and has boxes before suppression.
        """
        found = self.prepare(image)
        outputs = self.run(found.array)
        if self.description.task == 'segmentation':
            return label_map(outputs, found, image.shape[:2], self.description.lowest_logit)
        if 'labels' not in outputs:
            raise UsageError(f'{self.file} was exported with --raw: call run(prepare(image).array), suppress the boxes')
        return detections(outputs, found, image.shape[:2])


def open_session(file: Path, providers: Sequence[str]) -> Any:
    """A session of onnxruntime.

    Raises:
        UsageError: it is not installed, or the file is missing or broken.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f'onnxruntime is missing: {ADVICE}') from error
    if not file.is_file():
        raise UsageError(f'no such file: {file.absolute()}')
    try:
        return onnxruntime.InferenceSession(str(file), providers=list(providers))
    except Exception as error:      # of classes that onnxruntime does not name
        if not type(error).__module__.startswith('onnxruntime'):
            raise
        raise UsageError(f'{file} is not a model that onnxruntime can read: {error}') from error


def prepared(image: np.ndarray, rules: Preprocessing) -> Prepared:
    """The input of an image (H, W, 3), uint8 BGR."""
    import cv2
    if rules.resize:
        height, width = rules.resize.size(*image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    height, width = image.shape[:2]
    if rules.pad_pixels:
        image = padded(image, rules.pad_pixels)
    array = padded(normalised(image, rules), rules.pad).transpose(2, 0, 1)[None]
    return Prepared(np.ascontiguousarray(array), height, width)


def normalised(image: np.ndarray, rules: Preprocessing) -> np.ndarray:
    """Pixels (H, W, 3), BGR, in the order of the channels and the scale that a model takes."""
    pixels = image[..., ::-1] if rules.colour_order == 'RGB' else image
    return (pixels.astype(np.float32) - np.array(rules.mean, np.float32)) / np.array(rules.std, np.float32)


def padded(image: np.ndarray, rule: Padding) -> np.ndarray:
    """An image (H, W, 3) with its padding."""
    height, width = rule.size(*image.shape[:2])
    whole = np.broadcast_to(np.array(rule.value, image.dtype), (height, width, len(rule.value))).copy()
    whole[:image.shape[0], :image.shape[1]] = image
    return whole


def detections(outputs: dict[str, np.ndarray], place: Prepared, size: tuple[int, int]) -> Detections:
    """Those of the first image, from pixels of the input to those of the image of a size (height, width)."""
    found = outputs['labels'][0] >= 0
    boxes, scores, labels = (outputs[name][0][found] for name in ('boxes', 'scores', 'labels'))
    factors = np.array([size[1] / place.width, size[0] / place.height] * 2, np.float32)
    return Detections((boxes * factors).clip(0, [size[1], size[0]] * 2).astype(np.float32), scores, labels)


def label_map(outputs: dict[str, np.ndarray], place: Prepared, size: tuple[int, int],
              lowest_logit: float) -> np.ndarray:
    """The label of each pixel of an image of a size (height, width)."""
    import cv2
    if 'labels' in outputs:
        labels = outputs['labels'][0, :place.height, :place.width]
        return cv2.resize(labels.astype(np.int32), size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int64)
    logits = outputs['logits'][0, :, :place.height, :place.width]
    logits = np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in logits])
    return logits.argmax(0) if len(logits) > 1 else (logits[0] > lowest_logit).astype(np.int64)
