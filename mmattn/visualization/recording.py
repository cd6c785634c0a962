"""A side door: what every attention layer of a model looks at, in pixels of the image.

Positions are (x, y) in pixels of the image as it was before resizing, flipping and padding: 0 is its left or top edge,
0.5 the centre of the first pixel, its width or height the other edge.
"""
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmattn.errors import ArgumentError
from mmattn.layers import Attends
from mmattn.ops.padding import content_sizes, images_by_size


@dataclass
class Frame:
    """From pixels of a map to pixels of the image and back.

    Args:
        stride: pixels of the model's input per pixel of the map.
        scale: input pixels per image pixel, (x, y).
        size: (height, width) of the image; None where nothing is flipped and no pixel asked for.
        flip: 'horizontal', 'vertical', 'diagonal', or None.
    """
    stride: float
    scale: tuple[float, float] = (1.0, 1.0)
    size: tuple[int, int] | None = None
    flip: str | None = None

    def to_image(self, positions: Tensor) -> Tensor:
        """(..., 2) (y, x) in pixels of the map -> (..., 2) (x, y) in pixels of the image."""
        positions = positions.flip(-1).double() * self.stride / positions.new_tensor(self.scale, dtype=torch.double)
        return self._flipped(positions).float()

    def to_map(self, positions: Tensor | Sequence[float]) -> Tensor:
        """(..., 2) (x, y) in pixels of the image -> (..., 2) (y, x) in pixels of the map."""
        scale = torch.tensor(self.scale, dtype=torch.double) / self.stride
        return (self._flipped(torch.as_tensor(positions, dtype=torch.double)) * scale).flip(-1)

    def pixel(self, position: Sequence[float], size: Sequence[int]) -> tuple[int, int]:
        """(row, column) of the pixel of a map of `size` (H, W) in which a position (x, y) of the image lies.

        Raises:
            ArgumentError: it lies outside the image.
        """
        height, width = self._sides()
        if not (0 <= position[0] <= width and 0 <= position[1] <= height):
            raise ArgumentError(f'query (x, y) = ({position[0]:g}, {position[1]:g}) is outside the image, which is '
                                f'{width} pixels wide and {height} high')
        row, column = (min(int(at), side - 1) for at, side in zip(self.to_map(position).tolist(), size))
        return row, column

    def _sides(self) -> tuple[int, int]:
        if self.size is None:
            raise ArgumentError('size=None; flips and pixels need the (height, width) of the image')
        return self.size

    def _flipped(self, positions: Tensor) -> Tensor:
        x, y = positions.unbind(-1)
        if self.flip in ('horizontal', 'diagonal'):
            x = self._sides()[1] - x
        if self.flip in ('vertical', 'diagonal'):
            y = self._sides()[0] - y
        return torch.stack([x, y], -1)


@dataclass
class Query:
    """What one query attends to.

    Args:
        position: (x, y) that was asked for.
        box: (left, top, right, bottom) of the pixel of the map that it is in.
        keys: (h, K, 2) positions (x, y) of the keys of each head; those of padding lie outside the image.
        weights: (h, K) attention weights.
    """
    position: tuple[float, float]
    box: tuple[float, float, float, float]
    keys: Tensor
    weights: Tensor


@dataclass
class Record:
    """What one attention layer looked at in one image. All tensors are on the CPU.

    Args:
        layer: address of the layer in the model, 'backbone.stages.2.blocks.1.attn'.
        kind: its class.
        image: which image of the batch.
        size: (H, W) of its map.
        frame: from its map to the image.
        queries: one for each query asked for.
        points: (G, Hk, Wk, 2) sampled points (x, y) of deformable attention, of each offset group.
        references: (Hk, Wk, 2) where the points would be without offsets.
        received: (h, Hk, Wk) attention that each point receives, the mean over all queries; sums to 1
            over the points of a head.
        routes: (Gy, Gx, k) numbers, row by row, of the regions that each region attends to in bi-level
            routing attention.
        scores: (Gy, Gx, k) logits of the routes.
        regions: (Gy, Gx, 4) the regions, (left, top, right, bottom).
        groups: (H, W) number of the near or far group, or of the window, that a pixel of the map is in.
    """
    layer: str
    kind: str
    image: int
    size: tuple[int, int]
    frame: Frame
    queries: list[Query] = field(default_factory=list)
    points: Tensor | None = None
    references: Tensor | None = None
    received: Tensor | None = None
    routes: Tensor | None = None
    scores: Tensor | None = None
    regions: Tensor | None = None
    groups: Tensor | None = None

    @property
    def stage(self) -> int | None:
        """Number of the stage in a backbone, from 0; None elsewhere."""
        found = re.search(r'\bstages\.(\d+)', self.layer)
        return int(found[1]) if found else None

    @property
    def title(self) -> str:
        """'stage 3, block 2: DeformableAttention', or the address of the layer and its class."""
        found = re.search(r'\bstages\.(\d+)\.blocks\.(\d+)', self.layer)
        place = f'stage {int(found[1]) + 1}, block {int(found[2]) + 1}' if found else self.layer
        return f'{place}: {self.kind}' if place else self.kind

    @property
    def stride(self) -> float:
        """Pixels of the model's input per pixel of the map."""
        return self.frame.stride

    @property
    def offsets(self) -> Tensor | None:
        """(G, Hk, Wk, 2) how far each point is from its reference, (x, y) in pixels of the image."""
        return None if self.points is None or self.references is None else self.points - self.references


@contextmanager
def record_attention(model: nn.Module, queries: Sequence[tuple[float, float]] = (), layers: str = '',
                     top: int | None = None, images: Sequence[int] | None = None) -> Iterator[list[Record]]:
    """Record what the attention layers of a model look at while it runs in this context.

    Nothing is added to the model but hooks, which are removed at the end; outputs stay as they are to the bit. A
    compiled model runs uncompiled meanwhile.

    Args:
        model: a detector, a segmentor, a backbone, or anything else with layers in it that say what they attend to
            (`mmattn.layers.Attends`), as all attention of ours does.
        queries: (x, y) in pixels of the image, whose keys and weights are wanted.
        layers: regular expression that the address of a layer must match somewhere; all of them match ''.
        top: keep only so many keys of a query and head, those with the largest weights.
        images: which images of the batch; None for all.

    Yields:
        records, filled while the model runs, one for each layer and image, in the order in which layers run. With
        `data_samples` as mmdet's and mmseg's models get them, positions are in pixels of the original image, otherwise
        in those of the model's input.

    Raises:
        ArgumentError: no such layer matches; a query outside the image; a model that cuts its input into pieces.

    Example:
        >>> backbone = DAT(arch='tiny')
        >>> with record_attention(backbone, queries=[(100, 50)]) as records:
        ...     maps = backbone(torch.rand(1, 3, 200, 320))
        >>> records[4].layer, records[4].kind, tuple(records[5].points.shape)
        ('stages.2.blocks.0.attn', 'LocalAttention', (3, 13, 20, 2))
    """
    named = {name.replace('_orig_mod.', ''): module for name, module in model.named_modules()}
    found = {name: module for name, module in named.items() if issubclass(type(module), Attends)}
    chosen = {name: module for name, module in found.items() if re.search(layers, name)}
    if not chosen:
        raise ArgumentError(f'layers={layers!r} matches no attention layer of {type(model).__name__}; it has '
                            f'{", ".join(found) or "none of mmattn"}')
    strides = {f'{name}.stages.{i}.'.lstrip('.'): stride for name, module in named.items()
               for i, stride in enumerate(getattr(module, 'stage_strides', ()))}
    cut = {name: module for name, module in named.items() if getattr(module, 'cut_padding', False)}
    records: list[Record] = []
    seen: dict[str, Any] = {}
    parts: dict[str, list[tuple[tuple[int, int], list[int]]]] = {}

    def note_parts(module: nn.Module, args: tuple[Any, ...]) -> None:
        """A backbone that cuts padding off runs its layers for the images of each size in turn."""
        for name in chosen:
            if any(backbone is module and name.startswith(start) for start, backbone in cut.items()):
                parts[name] = list(images_by_size(content_sizes(args[0])).items())

    def note_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = [*args, *kwargs.values()]
        seen['input'] = next((tuple(v.shape[2:]) for v in values if isinstance(v, Tensor) and v.dim() == 4), None)
        samples = next((v for v in values if isinstance(v, (list, tuple)) and v and hasattr(v[0], 'metainfo')), ())
        seen['metas'] = [sample.metainfo for sample in samples]

    def record(name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: object) -> None:
            if torch._C._current_graph_task_id() != -1:     # gradient checkpointing computes it a second time
                return
            x = args[0].detach()
            stride = next((s for start, s in strides.items() if name.startswith(start)), None)
            with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
                area, members = parts[name].pop(0) if name in parts else (seen['input'], range(len(x)))
                for i in members if images is None else [i for i in images if i in members]:
                    meta = seen['metas'][i] if seen['metas'] else {}
                    frame = _frame(area or tuple(x.shape[2:]), meta, tuple(x.shape[2:]), stride, name)
                    place = members.index(i)
                    records.append(_record(module, x[place:place + 1], name, i, frame, queries, top))
        return hook

    handles = [module.register_forward_pre_hook(note_input, with_kwargs=True) for module in model.modules()
               if module is model or hasattr(module, 'data_preprocessor')]
    handles += [module.register_forward_pre_hook(note_parts) for module in cut.values()]
    handles += [module.register_forward_hook(record(name)) for name, module in chosen.items()]
    try:
        with torch.compiler.set_stance('force_eager') if _is_compiled(model) else nullcontext():
            yield records
    finally:
        for handle in handles:
            handle.remove()


def _is_compiled(model: nn.Module) -> bool:
    return any(hasattr(module, '_orig_mod') or getattr(module, '_compiled_call_impl', None) is not None
               for module in model.modules())


def _frame(input_size: tuple[int, int], meta: Mapping[str, Any], size: tuple[int, int], stride: float | None,
           name: str) -> Frame:
    if stride is None:      # a network that does not say; its maps shrink by halves
        stride = 2 ** round(math.log2(max(whole / part for whole, part in zip(input_size, size))))
    elif any(abs(side * stride - whole) >= stride for side, whole in zip(size, input_size)):
        raise ArgumentError(f'{name} reads {size[0]} x {size[1]} pixels with stride {stride} of an input of '
                            f"{input_size[0]} x {input_size[1]}: the model cuts it into pieces, as mmseg's "
                            "test_cfg.mode='slide' does, and does not say where; record with mode='whole'")
    scale_x, scale_y = meta.get('scale_factor', (1.0, 1.0))
    height, width = meta.get('ori_shape', input_size)[:2]
    return Frame(stride, (scale_x, scale_y), (height, width),
                 meta.get('flip_direction', 'horizontal') if meta.get('flip') else None)


def _record(layer: Attends, x: Tensor, name: str, image: int, frame: Frame, queries: Sequence[tuple[float, float]],
            top: int | None) -> Record:
    size = x.shape[2], x.shape[3]
    pixels = [frame.pixel(query, size) for query in queries]
    seen = layer.attended(x, pixels)
    record = Record(name, type(layer).__name__, image, size, frame, received=_cpu(seen.received),
                    routes=_cpu(seen.routes), scores=_cpu(seen.scores), groups=_cpu(seen.groups))
    record.points, record.references = (None if t is None else frame.to_image(t.cpu())
                                        for t in (seen.points, seen.references))
    if seen.regions is not None:
        record.regions = _boxes(frame, seen.regions.cpu())
    for position, (row, column), (keys, weights) in zip(queries, pixels, seen.queries):
        if top is not None and top < weights.shape[1]:
            weights, chosen = weights.topk(top, -1)
            keys = keys.gather(1, chosen[..., None].expand(-1, -1, 2))
        box = _boxes(frame, torch.tensor([row, column, row + 1, column + 1]))
        record.queries.append(Query((position[0], position[1]), tuple(box.tolist()), frame.to_image(keys.cpu()),
                                    weights.cpu()))
    return record


def _boxes(frame: Frame, boxes: Tensor) -> Tensor:
    """(..., 4) (top, left, bottom, right) in pixels of the map -> (left, top, right, bottom) of the image."""
    corners = frame.to_image(boxes.unflatten(-1, (2, 2)))
    return torch.cat([corners.amin(-2), corners.amax(-2)], -1)


def _cpu(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.cpu()
