"""The pictures that show what a model attends to: which there are for its kinds of attention, and over what."""
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mmattn.visualization import drawing
from mmattn.visualization.colors import Color
from mmattn.visualization.recording import Record

COLUMNS = 3         # of a grid
Image: TypeAlias = NDArray[np.uint8]        # (H, W, 3) RGB
Draw: TypeAlias = Callable[[Axes], None]


class Instances(NamedTuple):
    """Of a detection, the surest first."""

    boxes: Tensor                       # (N, 4) (left, top, right, bottom) in pixels of the image
    labels: Tensor                      # (N,)
    scores: Tensor | None               # (N,)
    masks: NDArray[np.bool_] | None     # (N, H, W)


@dataclass
class Found:
    """What was predicted for an image, or its ground truth.

    Args:
        sample: DetDataSample of mmdet or SegDataSample of mmseg.
        classes: names of the classes.
        ground_truth: whether the ground truth counts, or the predictions.
        score_thr: lowest score of a detection that is drawn.
        palette: (r, g, b) of each class; None for colours that differ.
    """
    sample: Any
    classes: Sequence[str]
    ground_truth: bool = False
    score_thr: float = 0.3
    palette: Sequence[Color] | None = None

    @property
    def title(self) -> str:
        return 'ground truth' if self.ground_truth else 'predictions'

    @property
    def label_map(self) -> NDArray[np.int64] | None:
        """(H, W) numbers of classes of a segmentation, or None."""
        label_map = self.sample.get('gt_sem_seg' if self.ground_truth else 'pred_sem_seg')
        return None if label_map is None else label_map.data[0].cpu().numpy()

    @property
    def instances(self) -> Instances:
        """What was detected."""
        found = self.sample.get('gt_instances' if self.ground_truth else 'pred_instances').cpu()
        if 'scores' in found:
            found = found[found.scores >= self.score_thr]
            found = found[found.scores.argsort(descending=True)]
        masks = found.get('masks')
        return Instances(getattr(found.bboxes, 'tensor', found.bboxes), found.labels, found.get('scores'),
                         None if masks is None else np.asarray(getattr(masks, 'masks', masks), bool))

    def draw(self, axis: Axes) -> None:
        """Boxes, masks, names of classes."""
        if self.label_map is not None:
            drawing.draw_label_map(axis, self.label_map, self.classes, self.palette)
        else:
            found = self.instances
            drawing.draw_instances(axis, found.boxes, found.labels, self.classes, found.scores, found.masks,
                                   self.palette)

    def middle(self, size: Sequence[int]) -> tuple[float, float]:
        """(x, y) as far inside as possible of the first instance, or of the second most frequent class; of an image of
        `size` (height, width) where there is neither."""
        mask = None
        if self.label_map is not None:
            labels, counts = np.unique(self.label_map, return_counts=True)
            mask = self.label_map == labels[counts.argsort()[-2]] if len(labels) > 1 else None
        else:
            found = self.instances
            if found.masks is not None and len(found.masks):
                mask = found.masks[0]
            elif len(found.boxes):
                left, top, right, bottom = found.boxes[0].tolist()
                return (left + right) / 2, (top + bottom) / 2
        if mask is None or not mask.any():
            return size[1] / 2, size[0] / 2
        inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        return float(x) + 0.5, float(y) + 0.5


@dataclass
class Choice:
    """What is drawn of the records.

    Args:
        every: all layers that were recorded, instead of the last of each kind in the stage with stride 16.
        most: points of a layer, those that receive most attention.
        head: attention of this head; None for the mean over heads.
        group: points of this offset group; None for all.
    """
    every: bool = False
    most: int = 300
    head: int | None = None
    group: int | None = None

    def of(self, records: list[Record]) -> list[Record]:
        """The records to draw one by one."""
        if self.every or not records:
            return records
        stride = min({record.stride for record in records}, key=lambda stride: abs(stride - 16))
        return list({record.kind: record for record in records if record.stride == stride}.values())


def panels(image: Image, found: Found, models: Mapping[str, list[Record]],
           choice: Choice) -> Iterator[tuple[str, Draw]]:
    """The pictures of an image, one after another.

    Args:
        image: (H, W, 3) uint8 RGB.
        found: what lies over it where points are drawn.
        models: records of the image by the name of the model; the attention of queries is
            drawn of all of them, everything else of the first.
        choice: which layers, heads and points.

    Yields:
        A name for a file, and what draws it.
    """
    records = next(iter(models.values()))
    yield found.title.replace(' ', '_'), _over(image, found.title, found.draw)
    pointed = [record for record in records if record.points is not None]

    def points(chosen: list[Record]) -> Draw:
        return lambda axis: drawing.draw_points(axis, chosen, choice.most, group=choice.group)

    if pointed:
        title = f'sampled points of {len(pointed)} layers, the {choice.most} most attended of each'
        yield 'points', _over(image, title, found.draw, points(pointed))
    for record in pointed:
        yield f'points_{record.layer}', _over(image, f'sampled points, {record.title}', found.draw, points([record]))
    for i, query in enumerate(records[0].queries):
        at = '{:.0f}_{:.0f}'.format(*query.position)
        for name, others in models.items():
            for record in choice.of(others):
                yield f'attention_{at}_{name}_{record.layer}', _attention(image, name, record, i, choice.head)
        for record in choice.of([record for record in records if record.routes is not None]):
            yield f'routes_{at}_{record.layer}', _over(
                image, f'routed regions, {record.title}', partial(drawing.draw_routes, record=record, query=i))
        for record in choice.of([record for record in records if record.groups is not None]):
            yield f'group_{at}_{record.layer}', _over(
                image, f'group, {record.title}', partial(drawing.draw_group, record=record, query=i))
    for record in choice.of([record for record in records if record.routes is not None]):
        yield f'route_counts_{record.layer}', _over(
            image, f'how many regions choose a region, {record.title}',
            partial(drawing.draw_route_counts, record=record))


def _over(image: Image, title: str, *draws: Draw) -> Draw:
    def panel(axis: Axes) -> None:
        drawing.show_image(axis, image, title)
        for draw in draws:
            draw(axis)
    return panel


def _attention(image: Image, name: str, record: Record, query: int, head: int | None) -> Draw:
    def panel(axis: Axes) -> None:
        drawing.show_image(axis, image, dim=0.4)
        share = drawing.draw_query(axis, record, query, head)
        part = f', {share:.0%} of the attention' if share < 0.995 else ''
        axis.set_title(f'{name}\n{record.title}{part}', fontsize=9)
    return panel


def draw_grid(pictures: Sequence[tuple[str, Draw]], size: Sequence[int]) -> Figure:
    """All pictures but those of the points of one layer, side by side in a figure without a window.

    Args:
        pictures: see `panels`.
        size: (height, width) of the image.
    """
    draws = [draw for name, draw in pictures if not name.startswith('points_')]
    columns = min(COLUMNS, len(draws))
    figure, axes = drawing.new_figure(-(-len(draws) // columns), columns, size)
    for axis in axes.flat[len(draws):]:
        axis.set_axis_off()
    for axis, draw in zip(axes.flat, draws):
        draw(axis)
    return figure
