"""The pictures that show what a model attends to: which there are for its kinds of attention, and over what."""
from dataclasses import dataclass

import cv2
import numpy as np

from mmattn.visualization import drawing

COLUMNS = 3         # of a grid


@dataclass
class Found:
    """What was predicted for an image, or its ground truth.

    Args:
        sample (DetDataSample | SegDataSample): of mmdet or mmseg.
        classes (Sequence[str]): names of the classes.
        ground_truth (bool): whether the ground truth counts, or the predictions.
        score_thr (float): lowest score of a detection that is drawn.
    """
    sample: object
    classes: tuple
    ground_truth: bool = False
    score_thr: float = 0.3

    @property
    def title(self):
        return 'ground truth' if self.ground_truth else 'predictions'

    @property
    def label_map(self):
        """(H, W) numbers of classes of a segmentation, or None."""
        label_map = self.sample.get('gt_sem_seg' if self.ground_truth else 'pred_sem_seg')
        return None if label_map is None else label_map.data[0].cpu().numpy()

    @property
    def instances(self):
        """Boxes (N, 4), labels (N,), scores (N,) or None, masks (N, H, W) or None of a detection, the surest first."""
        found = self.sample.get('gt_instances' if self.ground_truth else 'pred_instances').cpu()
        if 'scores' in found:
            found = found[found.scores >= self.score_thr]
            found = found[found.scores.argsort(descending=True)]
        masks = found.get('masks')
        return (getattr(found.bboxes, 'tensor', found.bboxes), found.labels, found.get('scores'),
                None if masks is None else np.asarray(getattr(masks, 'masks', masks), bool))

    def draw(self, axis):
        """Boxes, masks, names of classes."""
        if self.label_map is not None:
            drawing.draw_label_map(axis, self.label_map, self.classes)
        else:
            boxes, labels, scores, masks = self.instances
            drawing.draw_instances(axis, boxes, labels, self.classes, scores, masks)

    def middle(self, size):
        """(x, y) as far inside as possible of the first instance, or of the second most frequent class; of an image of
        `size` (height, width) where there is neither."""
        mask = None
        if self.label_map is not None:
            labels, counts = np.unique(self.label_map, return_counts=True)
            mask = self.label_map == labels[counts.argsort()[-2]] if len(labels) > 1 else None
        else:
            boxes, _, _, masks = self.instances
            if masks is not None and len(masks):
                mask = masks[0]
            elif len(boxes):
                left, top, right, bottom = boxes[0].tolist()
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
        every (bool): all layers that were recorded, instead of the last of each kind in the stage with stride 16.
        most (int): points of a layer, those that receive most attention.
        head (int | None): attention of this head; None for the mean over heads.
        group (int | None): points of this offset group; None for all.
    """
    every: bool = False
    most: int = 300
    head: int | None = None
    group: int | None = None

    def of(self, records):
        """The records to draw one by one."""
        if self.every or not records:
            return records
        stride = min({record.stride for record in records}, key=lambda stride: abs(stride - 16))
        return list({record.kind: record for record in records if record.stride == stride}.values())


def panels(image, found, models, choice):
    """The pictures of an image, one after another.

    Args:
        image (ndarray): (H, W, 3) uint8 RGB.
        found (Found): what lies over it where points are drawn.
        models (dict[str, list[Record]]): records of the image by the name of the model; the attention of queries is
            drawn of all of them, everything else of the first.
        choice (Choice): which layers, heads and points.

    Yields:
        tuple[str, Callable[[Axes], None]]: a name for a file, and what draws it.
    """
    records = next(iter(models.values()))
    yield found.title.replace(' ', '_'), _over(image, found.title, found.draw)
    pointed = [record for record in records if record.points is not None]

    def points(chosen):
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
                image, f'routed regions, {record.title}', lambda axis, r=record, i=i: drawing.draw_routes(axis, r, i))
        for record in choice.of([record for record in records if record.groups is not None]):
            yield f'group_{at}_{record.layer}', _over(
                image, f'group, {record.title}', lambda axis, r=record, i=i: drawing.draw_group(axis, r, i))
    for record in choice.of([record for record in records if record.routes is not None]):
        yield f'route_counts_{record.layer}', _over(
            image, f'how many regions choose a region, {record.title}',
            lambda axis, r=record: drawing.draw_route_counts(axis, r))


def _over(image, title, *draws):
    def panel(axis):
        drawing.show_image(axis, image, title)
        for draw in draws:
            draw(axis)
    return panel


def _attention(image, name, record, query, head):
    def panel(axis):
        drawing.show_image(axis, image, dim=0.4)
        share = drawing.draw_query(axis, record, query, head)
        part = f', {share:.0%} of the attention' if share < 0.995 else ''
        axis.set_title(f'{name}\n{record.title}{part}', fontsize=9)
    return panel


def draw_grid(pictures, size):
    """All pictures but those of the points of one layer, side by side.

    Args:
        pictures (Sequence[tuple[str, Callable]]): see `panels`.
        size (tuple[int, int]): (height, width) of the image.

    Returns:
        Figure: without a window.
    """
    draws = [draw for name, draw in pictures if not name.startswith('points_')]
    columns = min(COLUMNS, len(draws))
    figure, axes = drawing.new_figure(-(-len(draws) // columns), columns, size)
    for axis in axes.flat[len(draws):]:
        axis.set_axis_off()
    for axis, draw in zip(axes.flat, draws):
        draw(axis)
    return figure
