"""The published multiply-adds of detectors and segmentors, counted again as they were counted, or seem to have been.

`mmattn.measuring.flops` counts what is computed.
"""
import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmattn import backbones
from mmattn.backbones.crossformer import CrossFormerStage
from mmattn.backbones.dat import DATStage
from mmattn.backbones.pyramid import resolve_stages
from mmattn.measuring.flops import Count


def dat(model: Any, counts: Mapping[str, Count], shape: tuple[int, int]) -> int:
    """DAT: no attention and no sampling, but a quarter of the products of deformable attention."""
    deformable = sum(2 * (height * width) ** 2 * stage.embed_dims * stage.blocks.count('D')
                     for stage, height, width in _stages(model, shape))
    return sum(part.total - part.attention - part.sampling for part in counts.values()) + deformable // 4


def crossformer(model: Any, counts: Mapping[str, Count], shape: tuple[int, int]) -> int:
    """CrossFormer, as the authors' scripts count: linear maps and products of attention on maps completed to multiples
    of a group, biases of convolutions and ReLU, no norms."""
    total = sum(part.total + part.pointwise for name, part in counts.items() if name != 'backbone')
    total += counts['backbone'].total - counts['backbone'].attention
    for (stage, height, width) in _stages(model, shape):
        dims = stage.embed_dims
        total += dims * height * width                                          # biases of the embedding
        for i, kind in enumerate(stage.blocks):
            attention = stage.attention(i)
            group, interval = attention.groups((height, width))
            if kind == 'L' and stage.far_groups == 'map':
                tokens = math.prod(side * interval for side in group)
            else:
                tokens = math.prod(math.ceil(side / (n * interval)) * n * interval
                                   for side, n in zip((height, width), group))
            total += 4 * dims ** 2 * (tokens - height * width)                  # projections of what completes the map
            total += 2 * tokens * math.prod(group) * dims                       # products
            displacements = math.prod(2 * side - 1 for side in group)
            total += 3 * displacements * attention.position_bias.net[0].out_features        # ReLU
            total += dims * height * width * stage.is_cooled(i)                 # biases of the cooling layer
    return total


def _stages(model: Any, shape: tuple[int, int]) -> Iterator[tuple[Any, int, int]]:
    """The stages of a config's backbone, each with the height and width of its map."""
    family = getattr(backbones, model.backbone.type.partition('.')[2])
    record = DATStage if issubclass(family, backbones.DAT) else CrossFormerStage
    backbone = model.backbone
    fields = dict(group_size='group_sizes', interval='intervals', far_groups='far_groups')
    overrides = {} if record is DATStage else {field: backbone.get(name) for field, name in fields.items()}
    stages = resolve_stages(backbone.arch, family.arch_zoo, record, **overrides)
    for i, stage in enumerate(stages):
        height, width = (math.ceil(side / (4 * 2 ** i)) for side in shape)
        yield stage, height, width
