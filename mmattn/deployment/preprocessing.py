"""The preparation of images, as the test pipeline and the data preprocessor of a model have it."""
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from mmattn.config import datasets_with_pipeline, named
from mmattn.deployment.description import Padding, Preprocessing, Resize
from mmattn.errors import UsageError

CHANNELS = 3
TURNED = '_channel_conversion', 'channel_conversion'      # attributes for the order of the channels; mmseg 1.2's last


def as_tested(cfg: Config, preprocessor: Any) -> Preprocessing:
    """What happens to an image of the tests.

    Args:
        cfg: the whole config.
        preprocessor: the data preprocessor of the model.
    """
    resize, pad_pixels, others = None, None, []
    for step in pipeline_of(cfg):
        name = named(step)
        if name == 'Resize' and is_plain_resize(step):
            width, height = pair(step['scale'])
            keep = bool(step.get('keep_ratio'))
            resize = Resize(width, height, keep, turn=keep)
        elif name == 'Pad' and step.get('padding_mode', 'constant') == 'constant':
            pad_pixels = padding_of(step)
        elif not name.startswith(('Load', 'Pack')) or step.get('color_type', 'color') != 'color':
            others.append(name)
    normalises = getattr(preprocessor, '_enable_normalize', False)
    turned = any(getattr(preprocessor, name, False) for name in TURNED)
    return Preprocessing(
        resize, pad_pixels, 'RGB' if turned else 'BGR',
        channels(preprocessor.mean) if normalises else (0.0,) * CHANNELS,
        channels(preprocessor.std) if normalises else (1.0,) * CHANNELS, padding_after(preprocessor), tuple(others))


def pipeline_of(cfg: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The pipeline of the first data set of the tests.

    Raises:
        UsageError: the config has none.
    """
    for node in datasets_with_pipeline(cfg, 'test'):
        return node['pipeline']
    raise UsageError('the config has no test_dataloader with a pipeline, which says how images are prepared')


def is_plain_resize(step: Mapping[str, Any]) -> bool:
    """Whether a step resizes to a scale with OpenCV, as described files do."""
    return bool(step.get('scale')) and step.get('interpolation', 'bilinear') == 'bilinear' \
        and step.get('backend', 'cv2') == 'cv2'


def padding_of(step: Mapping[str, Any]) -> Padding:
    """Of a step of the pipeline."""
    value = step.get('pad_val', 0)
    width, height = step.get('size') or (None, None)
    return Padding(channels(value.get('img', 0) if isinstance(value, Mapping) else value), height, width,
                   bool(step.get('pad_to_square')), step.get('size_divisor') or 1)


def padding_after(preprocessor: Any) -> Padding:
    """Of a data preprocessor of mmdet, or of mmseg, which pads in tests where its test_cfg says so."""
    if not hasattr(preprocessor, 'pad_val'):
        value, divisor = getattr(preprocessor, 'pad_value', 0), getattr(preprocessor, 'pad_size_divisor', 1)
        return Padding(channels(value), divisor=divisor)
    settings = preprocessor.test_cfg or {}
    height, width = settings.get('size') or (None, None)
    return Padding(channels(preprocessor.pad_val), height, width, divisor=settings.get('size_divisor') or 1)


def channels(value: Any) -> tuple[float, ...]:
    """A number for each channel, of a tensor, a sequence or one number."""
    value = value.flatten().tolist() if hasattr(value, 'flatten') else value
    value = value if isinstance(value, Sequence) else [value] * CHANNELS
    return tuple(float(f'{number:.7g}') for number in value)        # as a person wrote it, who knows no float32


def pair(scale: Any) -> tuple[int, int]:
    """(width, height) of a scale."""
    return (int(scale[0]), int(scale[1])) if isinstance(scale, Sequence) else (int(scale), int(scale))


def default_size(rules: Preprocessing, preprocessor: Any) -> tuple[int, int]:
    """(height, width) of an input where nobody chose: the crop that a segmentor is trained on, or else the scale of the
    test pipeline with its padding.

    Raises:
        UsageError: there is neither.
    """
    crop = getattr(preprocessor, 'size', None)
    if crop:
        return rules.pad.size(*crop)
    if rules.resize is None:
        raise UsageError('--shape HEIGHT WIDTH is needed: the test pipeline leaves images as they are')
    size = rules.resize.height, rules.resize.width
    return rules.pad.size(*(rules.pad_pixels.size(*size) if rules.pad_pixels else size))


def with_least_size(rules: Preprocessing, least: int) -> Preprocessing:
    """The preparation for an input of a free size, both of whose sides have at least so many pixels."""
    height, width = replace(rules.pad, square=False).size(least, least)
    return replace(rules, pad=replace(rules.pad, height=height, width=width))


def with_fixed_size(rules: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    """The preparation for an input of one size (height, width): as tested where that fits, or else to fill it."""
    resize, (height, width) = rules.resize, size
    if resize:
        if resize.width > width or resize.height > height:
            resize = replace(resize, width=width, height=height)
        resize = replace(resize, turn=resize.turn and max(resize.width, resize.height) <= min(size))
    pixels = rules.pad_pixels and Padding(rules.pad_pixels.value, height, width)
    return replace(rules, resize=resize, pad_pixels=pixels, pad=Padding(rules.pad.value, height, width))
