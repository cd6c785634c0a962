"""How far an exported file is from eager mode."""
from collections.abc import Iterator, Mapping
from math import inf
from typing import NamedTuple

import numpy as np

SHARE = 1e-3        # a difference that is allowed, of the largest number of an output
PIXELS = 0.05       # and of a corner of a box
NEAR = 1000.0       # that is so many pixels away at most; of others, the same share
LABELS = 1e-3       # share of pixels with another label: where two logits are as good as equal


class Difference(NamedTuple):
    """Of an output on an image: how far it is, how far it may be, and in what unit."""
    output: str
    image: str
    value: float
    allowed: float
    unit: str

    @property
    def share(self) -> float:
        """The value in units of what is allowed."""
        return self.value / self.allowed if self.allowed else self.value * inf if self.value else 0.0

    def __str__(self) -> str:
        return f'{self.output} on {self.image}: {self.value:.2g} {self.unit} (up to {self.allowed:.2g})'


def differences(outputs: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], image: str,
                threshold: float = 0.0) -> list[Difference]:
    """Those of all outputs on an image; `threshold` is the one of the scores of detections."""
    if 'boxes' in wanted:
        return of_detections(one_score(outputs), one_score(wanted), image, threshold)
    return [of_labels(outputs[name], value, image) if name == 'labels'
            else of_numbers(name, outputs[name], value, image) for name, value in wanted.items()]


def one_score(outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Detections; boxes before suppression become those of one class, with the highest score of each."""
    if 'labels' in outputs:
        return outputs
    scores = outputs['scores'].max(-1)
    return dict(boxes=outputs['boxes'], scores=scores, labels=np.zeros(scores.shape, np.int64))


def of_labels(labels: np.ndarray, wanted: np.ndarray, image: str) -> Difference:
    """Of label maps."""
    return Difference('labels', image, float(np.mean(labels != wanted)), LABELS, 'of the pixels')


def of_numbers(name: str, values: np.ndarray, wanted: np.ndarray, image: str) -> Difference:
    """Of arrays, element by element; not a number is as far as can be."""
    far = float(np.nan_to_num(np.abs(values - wanted), nan=np.inf).max(initial=0.0))
    return Difference(name, image, far, SHARE * float(np.abs(wanted).max(initial=1e-3)), '')


def of_detections(outputs: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], image: str,
                  threshold: float) -> list[Difference]:
    """Of detections, as sets: each one that is clearly surer than the last and the threshold must have another on the
    other side with the same label, a score within the tolerance and a box nearby."""
    margin = SHARE * max(float(wanted['scores'].max(initial=0.0)), 1e-3)
    pairs = []
    for i in range(len(wanted['scores'])):
        one, other = ({name: output[i] for name, output in side.items()} for side in (outputs, wanted))
        least = max(lowest(one['scores']), lowest(other['scores']), threshold) + margin
        pairs += [*nearest(one, other, least, margin), *nearest(other, one, least, margin)]
    found = [pair for pair in pairs if pair[0] <= PIXELS]
    return [Difference('detections', image, float(len(pairs) - len(found)), 0.0, f'of {len(pairs)} without a partner'),
            Difference('boxes', image, max((far for far, _ in found), default=0.0), PIXELS, 'pixels'),
            Difference('scores', image, max((far for _, far in found), default=0.0), margin, '')]


def nearest(own: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], least: float,
            margin: float) -> Iterator[tuple[float, float]]:
    """For each detection of an image with a score above `least`: how far the corners of the nearest one of the other
    side are, with the same label and a score that differs by no more than `margin`, and how far its score is."""
    for k in np.flatnonzero(own['scores'] > least):
        scores = np.abs(other['scores'] - own['scores'][k])
        scale = max(1.0, float(np.abs(own['boxes'][k]).max()) / NEAR)
        far = np.abs(other['boxes'] - own['boxes'][k]).max(-1) / scale
        far = np.where((other['labels'] == own['labels'][k]) & (scores <= margin), far, inf)
        yield float(far.min()), float(scores[far.argmin()])


def lowest(scores: np.ndarray) -> float:
    """The score of the last detection where the list is full: others that are as sure may be missing; 0 otherwise."""
    return float(scores.min()) if (scores > 0).all() else 0.0
