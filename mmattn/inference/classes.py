"""The names and colours of the classes that a model predicts."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmattn.config import dataset_class, is_segmentation
from mmattn.datasets.checking import heads
from mmattn.visualization.colors import Color, palette_of


@dataclass(frozen=True)
class Classes:
    """Args:
        names: of the classes, in the order of their numbers.
        palette: (r, g, b) of each.
    """
    names: tuple[str, ...]
    palette: tuple[Color, ...]


def find_classes(cfg: Config, settings: Mapping[str, Any], saved: Mapping[str, Any]) -> tuple[Classes, str]:
    """The classes of a model: those that its checkpoint names, or else those of the config's data set.

    Args:
        cfg: the whole config.
        settings: the first data set of the tests.
        saved: `dataset_meta` of the checkpoint; {} where it has none.

    Returns:
        As many classes as the model's heads have, and '' or a sentence that says what does not agree with them.
    """
    known = {**dataset_class(cfg, settings).METAINFO, **settings.get('metainfo', {})}
    count = head_classes(cfg)
    told = [(origin, meta, names) for origin, meta in (('checkpoint', saved), ('data set of the config', known))
            if (names := _names(meta))]
    fitting = next(((meta, names) for _, meta, names in told if count in (None, len(names))), None)
    wrong = [f'the {origin} names {len(names)}' for origin, _, names in told if count not in (None, len(names))]
    complaint = f'the model has {count} classes, and {" and ".join(wrong)}' if wrong else ''
    meta, names = fitting or ({}, tuple(f'class {i}' for i in range(count or 0)))
    return Classes(names, palette_of(meta.get('palette'), len(names))), complaint and (
        complaint + ('; taking names that fit' if fitting else '; calling them by their numbers'))


def head_classes(cfg: Config) -> int | None:
    """How many classes the heads of a model predict; None where they do not say, or say different numbers."""
    counts = {value for _, value in heads(cfg.model, 'model')}
    if len(counts) != 1:
        return None
    return max(counts.pop(), 2 if is_segmentation(cfg) else 1)      # mmseg predicts 0 and 1 for a single class


def _names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    names = meta.get('classes') or ()
    return (names,) if isinstance(names, str) else tuple(map(str, names))
