"""Draw records on matplotlib axes, in pixels of the image."""
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from mmattn.errors import ArgumentError
from mmattn.visualization.colors import Color, palette_of
from mmattn.visualization.recording import Query, Record

STAGES = ('#4cc9f0', '#80ed99', '#ffd60a', '#ff4d6d')       # colour of the points of each stage
HEAT = 'plasma'
QUERY = '#00ff5f'
OUTLINED = [withStroke(linewidth=2, foreground='black')]
EDGED = [withStroke(linewidth=2.2, foreground='black')]
TEXT = 0.03         # height of a text, of that of an image


def new_figure(rows: int, columns: int, size: Sequence[int], width: float = 6.0) -> tuple[Figure, NDArray[Any]]:
    """A figure of axes for images.

    Args:
        rows, columns: of axes.
        size: (height, width) of the images in pixels.
        width: of each in inches.

    Returns:
        The figure, and its axes (rows, columns). It has no window; `figure.savefig` writes it.
    """
    height = width * size[0] / size[1] + 0.5       # two lines of title
    figure = Figure((columns * width, rows * height), layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False)


def show_image(axis: Axes, image: NDArray[np.uint8], title: str = '', dim: float = 0.0) -> None:
    """Put an image (H, W, 3), uint8 RGB, under what follows; `dim`, from 0 to 1, moves it towards black."""
    height, width = image.shape[:2]
    axis.imshow((image * (1 - dim)).astype(np.uint8), extent=(0, width, height, 0))
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def draw_instances(axis: Axes, boxes: Tensor, labels: Tensor, classes: Sequence[str], scores: Tensor | None = None,
                   masks: NDArray[np.bool_] | None = None, palette: Sequence[Color] | None = None) -> None:
    """Boxes with the names of their classes, and masks.

    Args:
        axis: with the image.
        boxes: (N, 4) (left, top, right, bottom) in pixels of the image.
        labels: (N,) numbers of classes.
        classes: their names.
        scores: (N,).
        masks: (N, H, W) bool.
        palette: (r, g, b) of each class; None for colours that differ.
    """
    colors = np.array(palette_of(palette, len(classes))) / 255
    for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
        color = colors[int(labels[i])]
        if masks is not None:
            _cover(axis, masks[i], color)
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=color, linewidth=1.4,
                                 path_effects=EDGED))
        name = classes[int(labels[i])] + ('' if scores is None else f' {scores[i]:.2f}')
        above = top > TEXT * axis.get_ylim()[0]         # or else below the edge of the image, inside of the box
        axis.text(left, top, name, color='white', fontsize=7, va='bottom' if above else 'top', path_effects=OUTLINED,
                  clip_on=True)


def draw_label_map(axis: Axes, label_map: NDArray[np.int64], classes: Sequence[str],
                   palette: Sequence[Color] | None = None, least: float = 0.005) -> None:
    """The classes of a semantic segmentation, with the names of those that cover enough.

    Args:
        axis: with the image.
        label_map: (H, W) numbers of classes; others are left out.
        classes: their names.
        palette: (r, g, b) of each class; None for colours that differ.
        least: share of the image from which on a class is named.
    """
    colors = np.array(palette_of(palette, len(classes))) / 255
    for i in np.unique(label_map[label_map < len(classes)]):
        mask = label_map == i
        _cover(axis, mask, colors[i])
        if mask.mean() >= least:
            rows, columns = mask.nonzero()
            middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            axis.text(columns[middle], rows[middle], classes[i], color='white', fontsize=7, ha='center', va='center',
                      path_effects=OUTLINED, clip_on=True)


def _cover(axis: Axes, mask: NDArray[np.bool_], color: NDArray[np.float64]) -> None:
    height, width = mask.shape
    axis.imshow(mask[..., None] * np.append(color, 0.45), extent=(0, width, height, 0))
    axis.contour(np.pad(mask, 1), [0.5], colors=[color], linewidths=0.8, extent=(-0.5, width + 0.5, -0.5, height + 0.5))


def draw_points(axis: Axes, records: Sequence[Record], most: int = 300, arrows: bool = True,
                group: int | None = None) -> None:
    """Sampled points of deformable attention, coloured by stage: the larger, the more attention a point receives.

    Args:
        axis: with the image.
        records: those of other layers are left out.
        most: draw only so many points of a layer, those that receive most attention.
        arrows: draw an arrow from where a point would be without its offset.
        group: only the points of this offset group; None for all.

    Raises:
        ArgumentError: no record has points, or a record has no such group.
    """
    sampled = [(record, part) for record in records if (part := _sampled(record, group))]
    if not sampled:
        raise ArgumentError('no record has sampled points: the model has no deformable attention')
    for record, (points, starts, received) in sampled:
        chosen = received.flatten().topk(min(most, received.numel())).indices
        to, start = points.flatten(0, 2)[chosen], starts.flatten(0, 2)[chosen]
        color = STAGES[(record.stage or 0) % len(STAGES)]
        if arrows:
            axis.quiver(*start.T, *(to - start).T, angles='xy', scale_units='xy', scale=1, color=color, alpha=0.55,
                        width=0.002, headwidth=4)
        share = received.flatten()[chosen] * received[0].numel()                # 1: as much as the average point
        axis.scatter(to[:, 0], to[:, 1], s=14 * share.clamp(0.15, 10), color=color, edgecolors='black', linewidths=0.3,
                     alpha=0.85, label=f'stage {(record.stage or 0) + 1}')
    _legend(axis)


def _sampled(record: Record, group: int | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """Points and where they start, (G, Hk, Wk, 2) each, and the attention each receives (G, Hk, Wk), the mean of the
    heads of its group; None of a layer that samples none."""
    if record.points is None or record.references is None or record.received is None:
        return None
    count = len(record.points)
    if group is not None and not 0 <= group < count:
        raise ArgumentError(f'group={group} is not one of the {count} offset groups of {record.layer}, 0 to '
                            f'{count - 1}')
    received = record.received.unflatten(0, (count, -1)).mean(1)
    chosen = slice(None) if group is None else slice(group, group + 1)
    return record.points[chosen], record.references.expand_as(record.points[chosen]), received[chosen]


def draw_query(axis: Axes, record: Record, query: int = 0, head: int | None = None, most: int = 100) -> float:
    """The keys that a query attends to: the larger and brighter, the higher their weight; the query is a star.

    Args:
        axis: with the image.
        record: with queries.
        query: which of them.
        head: the weights of this head; None for the mean over heads.
        most: draw only so many keys, those with the highest weights.

    Returns:
        How much of the attention is on the keys that are drawn.

    Raises:
        ArgumentError: there is no such query or head.
    """
    asked = _asked(record, query)
    keys, weights = merge_heads(asked, head)
    weights, chosen = weights.topk(min(most, len(weights)))
    order = weights.argsort()
    keys, weights = keys[chosen][order], weights[order]
    axis.scatter(keys[:, 0], keys[:, 1], s=90 * (weights / weights.max()).clamp(min=0.03), c=weights, cmap=HEAT, vmin=0,
                 edgecolors='white', linewidths=0.3, alpha=0.9)
    _outline(axis, asked.box)
    _star(axis, asked)
    return float(weights.sum())


def merge_heads(query: Query, head: int | None = None) -> tuple[Tensor, Tensor]:
    """Keys (K, 2) and weights (K,) of one head, or of the mean over heads, in which heads that look at the same keys
    share them.

    Raises:
        ArgumentError: there is no such head.
    """
    keys, weights = query.keys, query.weights
    count = len(weights)
    if head is not None:
        if not 0 <= head < count:
            raise ArgumentError(f'head={head} is not one of {count}, 0 to {count - 1}')
        return keys[head], weights[head]
    shared: list[tuple[Tensor, Tensor]] = []        # keys and sum of weights of each offset group's heads, or of all
    for own, part in zip(keys, weights / count):
        if shared and torch.equal(shared[-1][0], own):
            shared[-1] = own, shared[-1][1] + part
        else:
            shared.append((own, part))
    return torch.cat([own for own, _ in shared]), torch.cat([part for _, part in shared])


def draw_routes(axis: Axes, record: Record, query: int = 0) -> None:
    """The regions that the region of a query attends to, with their logits; all else is darker. The region of the
    query is outlined.

    Raises:
        ArgumentError: the record has no routes, or no such query.
    """
    boxes, chosen, scores = _routing(record)
    asked = _asked(record, query)
    x, y = (asked.box[0] + asked.box[2]) / 2, (asked.box[1] + asked.box[3]) / 2        # never between two regions
    own = int(((boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])).nonzero())
    routes, logits = chosen[own], scores[own]
    others = torch.ones(len(boxes), dtype=torch.bool).index_fill_(0, routes, False)
    axis.add_collection(PatchCollection(_rectangles(boxes[others]), facecolors='black', alpha=0.65))
    axis.add_collection(PatchCollection(_rectangles(boxes[routes]), facecolors='none', edgecolors='white'))
    _write(axis, boxes[routes], [f'{logit:.1f}' for logit in logits])
    _outline(axis, boxes[own].tolist())
    _star(axis, asked)


def draw_route_counts(axis: Axes, record: Record) -> None:
    """How many regions choose each region.

    Raises:
        ArgumentError: the record has no routes.
    """
    boxes, routes, _ = _routing(record)
    counts = routes.flatten().bincount(minlength=len(boxes))
    fill = PatchCollection(_rectangles(boxes), cmap='inferno', alpha=0.55, edgecolors='white', linewidths=0.4)
    fill.set_array(counts.numpy())
    fill.set_clim(0, max(int(counts.max()), 1))
    axis.add_collection(fill)
    _write(axis, boxes, map(str, counts.tolist()))


def _routing(record: Record) -> tuple[Tensor, Tensor, Tensor]:
    """Of all regions, row by row: their boxes (G, 4), the regions they attend to (G, k), and the logits of these."""
    if record.regions is None or record.routes is None or record.scores is None:
        raise ArgumentError(f'{record.layer} is {record.kind}, which has no routes; BiLevelRoutingAttention has')
    return record.regions.flatten(0, 1), record.routes.flatten(0, 1), record.scores.flatten(0, 1)


def _asked(record: Record, query: int) -> Query:
    if not 0 <= query < len(record.queries):
        raise ArgumentError(f'query={query} was not recorded; there are {len(record.queries)}, counted from 0')
    return record.queries[query]


def _star(axis: Axes, asked: Query) -> None:
    axis.plot(*asked.position, marker='*', color=QUERY, markeredgecolor='black', markersize=13)


def _outline(axis: Axes, box: Sequence[float]) -> None:
    left, top, right, bottom = box
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=QUERY, linewidth=1.5))


def _rectangles(boxes: Tensor) -> list[Rectangle]:
    return [Rectangle((left, top), right - left, bottom - top) for left, top, right, bottom in boxes.tolist()]


def _write(axis: Axes, boxes: Tensor, texts: Iterable[str]) -> None:
    """A text in the middle of what is in sight of each box."""
    right, bottom = axis.get_xlim()[1], axis.get_ylim()[0]
    for (x1, y1, x2, y2), text in zip(boxes.tolist(), texts):
        if x1 < right and y1 < bottom:
            axis.text((x1 + min(x2, right)) / 2, (y1 + min(y2, bottom)) / 2, text, color='white', fontsize=7,
                      ha='center', va='center', path_effects=OUTLINED)


def draw_group(axis: Axes, record: Record, query: int = 0) -> None:
    """The tokens of the near or far group, or of the window, that a query is in.

    Raises:
        ArgumentError: the record has no groups, or no such query.
    """
    if record.groups is None:
        raise ArgumentError(f'{record.layer} is {record.kind}, which has no groups; windows and CrossFormer have')
    asked = _asked(record, query)
    tokens = (record.groups == record.groups[record.frame.pixel(asked.position, record.size)]).nonzero()
    first, last = record.frame.to_image(tokens).tolist(), record.frame.to_image(tokens + 1).tolist()
    patches = [Rectangle((a, b), c - a, d - b) for (a, b), (c, d) in zip(first, last)]
    axis.add_collection(PatchCollection(patches, facecolors='#ffd60a', edgecolors='black', linewidths=0.3, alpha=0.6))
    _star(axis, asked)


def _legend(axis: Axes) -> None:
    """Stages in order, once each."""
    handles, labels = axis.get_legend_handles_labels()
    known = dict(sorted(zip(labels, handles), key=lambda pair: pair[0]))
    legend = axis.legend(known.values(), known, fontsize=8, loc='lower right', framealpha=0.7)
    for handle in legend.legend_handles:
        handle.set_sizes([30])      # type: ignore[union-attr]  # those of a scatter have sizes
