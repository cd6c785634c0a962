"""The published multiply-adds of detectors and segmentors, counted again as they seem to have been counted.

Neither rule is written anywhere: they fit the published figures. `tools/get_flops.py` counts what is computed.
"""
import math

GROUPS = (7, 7, 7, 7), (8, 4, 2, 1)         # side of a group, interval of far groups
WIDE_GROUPS = (14, 14, 7, 7), (4, 2, 2, 1)


def dat(model, counts, shape):
    """DAT: no attention and no sampling, but a quarter of the products of deformable attention."""
    deformable = sum(2 * (height * width) ** 2 * stage.embed_dims * stage.blocks.count('D')
                     for stage, height, width in _stages(model, shape))
    return sum(part.total - part.attention - part.sampling for part in counts.values()) + deformable // 4


def crossformer(model, counts, shape, name):
    """CrossFormer: linear maps and attention on maps completed to multiples of a group, and the network of the
    dynamic position bias for every pair of tokens in every group (Semantic FPN with CrossFormer-L lacks these)."""
    wide = ('_1x_' in name or 'upernet' in name or '-pp-' in name) and 'crossformer-l' not in name
    backbone = counts['backbone']
    total = sum(part.total for part in counts.values()) - backbone.attention
    for (stage, height, width), group, interval in zip(_stages(model, shape), *(WIDE_GROUPS if wide else GROUPS)):
        dims = stage.embed_dims
        hidden = dims // 16
        network = hidden * (2 + 2 * hidden + stage.num_heads)
        for block in stage.blocks:
            span = group * (interval if block == 'L' else 1)
            tokens = math.ceil(height / span) * math.ceil(width / span) * span ** 2
            total += 12 * dims ** 2 * (tokens - height * width) + 2 * tokens * group ** 2 * dims
            if 'crossformer-l_fpn' not in name:
                total += tokens * group ** 2 * network
    return total


def _stages(model, shape):
    """The stages of a config's backbone, each with the height and width of its map."""
    from mmattn import backbones
    from mmattn.backbones.crossformer import CrossFormerStage
    from mmattn.backbones.dat import DATStage
    from mmattn.backbones.pyramid import resolve_stages
    family = getattr(backbones, model.backbone.type.partition('.')[2])
    record = DATStage if issubclass(family, backbones.DAT) else CrossFormerStage
    stages = resolve_stages(model.backbone.arch, family.arch_zoo, record)
    return [(stage, *(math.ceil(side / (4 * 2 ** i)) for side in shape)) for i, stage in enumerate(stages)]
