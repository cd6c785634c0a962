"""The maps that a backbone gives beside those that the neck and the heads of a model read."""
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from mmattn.backbones.pyramid import Pyramid
from mmattn.errors import UsageError
from mmattn.necks import NormalizedPooling

# Necks that want one map for each number of `in_channels`, by the class whose `forward` they have.
ROOMS = 'mmdet.models.necks', 'mmseg.models.necks', 'mmattn.necks'
PASSING = ('AttentionNeck',)        # gives the maps that it got
LENIENT = 'NASFCOS_FPN', 'NASFPN'   # leave out maps behind those
NECKS = ('ChannelMapper', 'CrossScaleNeck', 'CSPNeXtPAFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'FPN_DropBlock', 'HRFPN', 'JPU',
         'MLANeck', 'MultiLevelNeck', 'NormalizedPooling', 'PAFPN', 'YOLOXPAFPN', *LENIENT, *PASSING)
# Parts of Mask2Former and MaskFormer that want the same.
DECODERS = 'MSDeformAttnPixelDecoder', 'PixelDecoder', 'TransformerEncoderPixelDecoder'


def check_levels(model: nn.Module) -> None:
    """Check, wherever a model has a backbone of ours, that necks and segmentation heads get the maps that they read;
    the first forward would end inside a library otherwise. Parts that we don't know are left alone.

    Raises:
        UsageError: naming the part, what it reads and what there is.
    """
    for key, part in with_backbones(model):
        levels_read(key, part)
        check_classifier(key, part)


def check_classifier(key: str, part: Any) -> None:
    """Raise UsageError where the head of a classifier wants other channels than its neck gives."""
    neck, wanted = getattr(part, 'neck', None), getattr(getattr(part, 'head', None), 'in_channels', None)
    if isinstance(neck, NormalizedPooling) and wanted not in (None, *neck.in_channels):
        raise UsageError(f'{key}head.in_channels={wanted}, but the NormalizedPooling before it gives '
                         f'{neck.in_channels[0]}')


def describe_unread(model: nn.Module) -> list[str]:
    """A line for every backbone of ours whose norms include some of maps that no neck and no head reads: they get no
    gradient, which data-parallel training takes for an error."""
    lines = []
    for key, part in with_backbones(model):
        backbone, read = part.backbone, levels_read(key, part)
        stages = [stage for i, stage in enumerate(backbone.out_indices) if read is None or i in read]
        unread = [stage for stage in backbone.normed_stages
                  if stage not in stages and any(p.requires_grad for p in backbone.norms[str(stage)].parameters())]
        if unread:
            used = tuple(stage for stage in backbone.normed_stages if stage in stages)
            named = ', '.join(map(str, unread))
            lines.append(f'{key}backbone: no part reads the map of stage {named}, whose norm gets no gradient; '
                         f'out_norm={used} leaves it out')
    return lines


def with_backbones(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The parts of a model that have a backbone of ours, with what stands before its name in the config."""
    for name, part in model.named_modules():
        if isinstance(getattr(part, 'backbone', None), Pyramid):
            yield ''.join(f'{one}.' for one in ('model', name) if one), part


def levels_read(key: str, part: Any) -> set[int] | None:
    """Which maps of its backbone the neck and the heads of a model read; None where a part is one that we don't know.

    Raises:
        UsageError: they read others than there are.
    """
    backbone = part.backbone
    maps: tuple[int, ...] | None = backbone.out_channels
    source = f'{type(backbone).__name__} with out_indices={backbone.out_indices} gives'
    read = None
    for name, neck in necks(part):
        levels = levels_of(neck)
        if levels is None or maps is None:
            return read
        check_channels(f'{key}{name}', neck, maps, levels, source)
        if read is None and type(neck).__name__ not in PASSING:
            read = set(levels)
        maps, source = maps_of(neck, maps), f'the {type(neck).__name__} before it gives'
    if maps is None:
        return read
    found = {name: indices_read(f'{key}{name}', head, maps, source) for name, head in heads(part)}
    known = 'decode_head' in found or 'panoptic_head' in found
    return {index for indices in found.values() for index in indices} if read is None and known else read


def necks(part: Any) -> list[tuple[str, Any]]:
    """The necks of a model, one after the other, with their names in the config."""
    neck = getattr(part, 'neck', None)
    if isinstance(neck, nn.Sequential):
        return [(f'neck.{i}', one) for i, one in enumerate(neck)]
    return [] if neck is None else [('neck', neck)]


def levels_of(neck: Any) -> Sequence[int] | None:
    """Which of its maps a neck reads; None of one that we don't know."""
    owner = next(kind for kind in type(neck).__mro__ if 'forward' in vars(kind))
    if not owner.__module__.startswith(ROOMS) or owner.__name__ not in NECKS:
        return None
    return range(getattr(neck, 'start_level', 0), getattr(neck, 'backbone_end_level', len(channels_wanted(neck))))


def channels_wanted(part: Any) -> list[int]:
    """The channels that a neck or a pixel decoder wants of each map, the largest map first."""
    if hasattr(part, 'in_channels'):
        return list(part.in_channels)
    convs = part.convs if hasattr(part, 'convs') else [*reversed(part.lateral_convs), *reversed(part.input_convs)]
    return [conv.in_channels for conv in convs]


def check_channels(name: str, part: Any, maps: Sequence[int], levels: Iterable[int], source: str) -> None:
    """Raise UsageError unless a part that wants the channels of each map has those of the levels that it reads."""
    wanted = channels_wanted(part)
    count = len(wanted) if type(part).__name__ in LENIENT else len(maps)
    if len(wanted) != count or len(maps) < count or any(wanted[i] != maps[i] for i in levels):
        raise UsageError(f'{name}.in_channels={wanted}, but {source} {of_channels(maps)}; {type(part).__name__} wants '
                         'the channels of each map')


def maps_of(neck: Any, maps: tuple[int, ...]) -> tuple[int, ...] | None:
    """The channels of each map that a neck gives for maps of so many; None where we don't know."""
    if type(neck).__name__ in PASSING:
        return maps
    channels, count = getattr(neck, 'out_channels', None), getattr(neck, 'num_outs', None)
    return (channels,) * count if isinstance(channels, int) and isinstance(count, int) else None


def heads(part: Any) -> Iterator[tuple[str, Any]]:
    """The heads that choose maps as mmseg's do, or have a pixel decoder, with their names in the config."""
    for name in ('decode_head', 'auxiliary_head', 'panoptic_head'):
        found = getattr(part, name, None)
        many = isinstance(found, nn.ModuleList)
        for i, head in enumerate(found if many else [found]):       # type: ignore[arg-type]
            chooses = hasattr(head, '_transform_inputs') and hasattr(head, 'in_index')
            if chooses or type(getattr(head, 'pixel_decoder', None)).__name__ in DECODERS:
                yield f'{name}.{i}' if many else name, head


def indices_read(name: str, head: Any, maps: Sequence[int], source: str) -> list[int]:
    """The maps that a head reads, counted from 0.

    Raises:
        UsageError: there are none such, or they have other channels.
    """
    if hasattr(head, 'pixel_decoder'):
        check_channels(name, head.pixel_decoder, maps, range(len(maps)), source)
        return list(range(len(maps)))
    one = head.input_transform is None
    indices = [head.in_index] if one else list(head.in_index)
    channels = [maps[i] for i in indices if -len(maps) <= i < len(maps)]
    wanted = [head.in_channels] if isinstance(head.in_channels, int) else list(head.in_channels)
    if head.input_transform == 'resize_concat':     # which adds them up
        wanted, summed = [sum(wanted)], [sum(channels)]
    else:
        summed = channels
    if len(channels) < len(indices) or wanted != summed:
        raise UsageError(f'{name} reads in_index={head.in_index!r} with in_channels={head.in_channels!r}, but {source} '
                         f'{of_channels(maps)}')
    return [i % len(maps) for i in indices]


def of_channels(maps: Sequence[int]) -> str:
    return f'{len(maps)} map{"s" * (len(maps) > 1)} of {", ".join(map(str, maps))} channels'
