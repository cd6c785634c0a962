"""What the backbones share: a stem, stages with a downsampling before each but the first, a norm per output."""
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol, TypeVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmattn.backbones.arguments import argument_names, refuse_unknown
from mmattn.checkpoint.files import is_pretrained
from mmattn.checkpoint.loading import load_backbone, translate_on_load
from mmattn.checkpoint.reading import read_as_chosen, state_dict_of
from mmattn.checks import check_at_least, check_map, check_rate, is_whole
from mmattn.errors import ArgumentError
from mmattn.layers import MLP, LayerNorm2d
from mmattn.ops.padding import content_sizes, in_valid_area
from mmattn.ops.partition import ceil_div, pad

Presets = Mapping[str, Sequence[Mapping[str, Any]]]     # the stages of each named architecture


class StageRecord(Protocol):
    """What the records of stages have in common: dataclasses with these fields and more."""
    embed_dims: int
    num_heads: int
    blocks: str


Record = TypeVar('Record', bound=StageRecord)


def resolve_stages(arch: str | Sequence[Mapping[str, Any]], presets: Presets, record: type[Record],
                   **overrides: Any) -> list[Record]:
    """The stages of a named architecture, or the given ones.

    Args:
        arch: a key of `presets`, or the fields of each stage.
        presets: the named architectures.
        record: dataclass of a stage.
        overrides: a field's value for all stages, or a sequence of one for each; None leaves what the stages say.

    Raises:
        ArgumentError: the name is unknown, a stage has other fields than `record`, or an override has not one value for
            each stage.
    """
    if isinstance(arch, str) and arch not in presets:
        raise ArgumentError(f'arch={arch!r} is unknown; choose one of {", ".join(presets)}, or give a list of stages')
    given = presets[arch] if isinstance(arch, str) else arch
    if not isinstance(given, Sequence) or not given or not all(isinstance(stage, Mapping) for stage in given):
        raise ArgumentError(f'arch={arch!r} must be a name or a list of dicts, one for each stage')
    stages = [_stage(record, dict(stage)) for stage in given]
    for field, values in overrides.items():
        if values is None:
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            values = [values] * len(stages)
        check_per_stage(field, values, len(stages))
        for stage, value in zip(stages, values):
            setattr(stage, field, value)
    for stage in stages:
        check_at_least('embed_dims', stage.embed_dims, 1)
        if not isinstance(stage.blocks, str):
            raise ArgumentError(f'blocks={stage.blocks!r} must be a letter for each block')
    return stages


def _stage(record: type[Record], given: dict[str, Any]) -> Record:
    """The record of a stage from its fields."""
    known = fields(record)      # type: ignore[arg-type]
    names = [field.name for field in known]
    refuse_unknown(f'{record.__name__} (a stage of arch)', {k: v for k, v in given.items() if k not in names}, names)
    lacking = [field.name for field in known if field.default is MISSING and field.name not in given]
    if lacking:
        raise ArgumentError(f'a stage of arch has no {", ".join(lacking)}: {given}')
    return record(**given)


def check_per_stage(name: str, values: object, count: int) -> None:
    """Raise ArgumentError unless there is a value for each of `count` stages."""
    if not isinstance(values, Sequence):
        raise ArgumentError(f'{name}={values!r} must be a list of {count}, one for each stage')
    if len(values) != count:
        raise ArgumentError(f'{name} is given for {len(values)} stages of {count}: {values}')


def linear_rates(last: float, count: int) -> list[float]:
    """`count` stochastic depth rates, rising linearly from 0 to `last`."""
    check_rate('drop_path_rate', last)
    return [last * i / max(count - 1, 1) for i in range(count)]


def init_linear(model: nn.Module) -> None:
    """Start linear maps with normal weights of standard deviation 0.02 and biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Stage(nn.Module):
    """Blocks one after the other.

    Args:
        blocks: maps (B, C, H, W) to the same shape.
        with_cp: recompute each block in the backward pass instead of storing it.
    """

    def __init__(self, blocks: Iterable[nn.Module], with_cp: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        recompute = self.with_cp and self.training
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute and x.requires_grad else block(x)
        return x

    def extra_repr(self) -> str:
        return 'with_cp=True' if self.with_cp else ''


class PatchConv(nn.Conv2d):
    """A convolution of patches that do not overlap.

    Args:
        in_channels, out_channels: channels.
        patch_size: side of a patch.
        bias: whether it has one.
        pad: True completes the last patches with zeros; False leaves out rows and columns that do not fill one, unless
            there is no whole patch.
    """

    def __init__(self, in_channels: int, out_channels: int, *, patch_size: int, bias: bool = True,
                 pad: bool = True) -> None:
        super().__init__(in_channels, out_channels, patch_size, patch_size, bias=bias)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = (ceil_div(side, patch) * patch - side if self.pad else max(patch - side, 0)
                         for side, patch in zip(x.shape[2:], self.kernel_size))
        return super().forward(pad(x, (0, right, 0, bottom)))

    def extra_repr(self) -> str:
        return super().extra_repr() + ('' if self.pad else ', pad=False')


@dataclass
class Layout:
    """The parts of a pyramid.

    Args:
        stem: image -> input of the first stage.
        stages: maps (B, C, H, W) to the same shape.
        downsamples: `downsamples[i]` leads from stage i to stage i + 1, and halves the map.
        dims: channels of each stage.
        norm_layer: makes the norm of an output for a number of channels.
        stem_stride: pixels of the image per pixel of the first stage.
    """
    stem: nn.Module
    stages: Sequence[nn.Module]
    downsamples: Sequence[nn.Module]
    dims: Sequence[int]
    norm_layer: Callable[[int], nn.Module] = LayerNorm2d
    stem_stride: int = 4


class Pyramid(BaseModule):
    """Base of the backbones: (B, 3, H, W) images in, one map per chosen stage out.

    Stages behind the last of `out_indices` are not built, so that every parameter gets a gradient. Wherever parameters
    are loaded, those of the authors' files are taken too, in a whole detector or segmentor as well; those of another
    architecture raise `CheckpointError`.

    Args:
        in_channels: channels of the image.
        layout: the parts.
        out_indices: stages to return, ascending.
        frozen_stages: -1 trains everything; n >= 0 freezes the stem and the first n stages, with what leads into them,
            and keeps them in eval mode.
        norm_eval: keep batch norms in eval mode during training.
        out_norm: layer norm on each returned map, as the published detectors and segmentors have; or the stages that
            have one, some of `out_indices`. A head that does not read a map leaves its norm without a gradient: for an
            FPN with `start_level=1` it is to be left out, as data-parallel training wants every gradient.
        cut_padding: make an image independent of its neighbours in a batch; the published models are not. The zeros
            that fill a batch at the bottom and right are cut off (see `mmattn.ops.padding`), images of equal size go
            through the network together, and maps are zero in the padding. Data preprocessors of mmdet and mmseg fill
            with zeros after normalisation unless `pad_value` or `pad_val` says otherwise. Last rows and columns of an
            image whose values are all zero count as padding, but not all of an image. Batch norms in training see the
            images of one size at a time. Sizes are read from values, which a GPU has to wait for and which cannot be
            exported.
        recompute_mlp: make the hidden channels of the MLPs again in the backward pass instead of keeping them. None to
            do so where it is faster: on the CPU, but for depth-wise MLPs.
        init_cfg: initialization as MMEngine describes it. `dict(type='Pretrained', checkpoint=…)` takes our files and
            the authors', of classifiers, detectors and segmentors; position bias tables of another size are resized,
            and a file that does not fit raises `CheckpointError`.

    Attributes:
        out_channels: channels of each returned map.

    Raises:
        ArgumentError: out_indices, frozen_stages or out_norm out of range, or an argument that the class does not have.
    """

    def __init__(self, in_channels: int, layout: Layout, *, out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1, norm_eval: bool = False, out_norm: bool | Sequence[int] = True,
                 cut_padding: bool = False, recompute_mlp: bool | None = None,
                 init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, **unknown: Any) -> None:
        super().__init__(init_cfg)
        refuse_unknown(type(self).__name__, unknown, argument_names(type(self), Pyramid))
        count = len(layout.stages)
        chosen = [i for i in range(count) if isinstance(out_indices, Sequence) and i in list(out_indices)]
        if not chosen or chosen != list(out_indices):
            raise ArgumentError(f'out_indices={out_indices!r} must be ascending stage numbers from 0 to {count - 1}')
        if frozen_stages not in range(-1, count + 1):
            raise ArgumentError(f'frozen_stages={frozen_stages!r} is outside -1 to {count}')
        self.in_channels = in_channels
        self.out_indices = tuple(chosen)
        self.out_channels = tuple(layout.dims[i] for i in chosen)
        self.normed_stages = _normed_stages(out_norm, self.out_indices)
        self.frozen_stages = int(frozen_stages)
        self.norm_eval = norm_eval
        self.cut_padding = cut_padding
        self.stage_strides = [layout.stem_stride * 2 ** i for i in range(count)]
        self.stem = layout.stem
        self.stages = nn.ModuleList(layout.stages[:chosen[-1] + 1])
        self.downsamples = nn.ModuleList(layout.downsamples[:chosen[-1]])
        self.norms = nn.ModuleDict({
            str(i): layout.norm_layer(layout.dims[i]) if i in self.normed_stages else nn.Identity() for i in chosen})
        for module in self.modules():
            if isinstance(module, MLP):
                module.recompute = recompute_mlp
        self.register_load_state_dict_pre_hook(translate_on_load)
        self._freeze()

    @staticmethod
    def translate(key: str, value: Tensor) -> tuple[str | None, Tensor]:
        """The authors' parameter -> our name and value, see `mmattn.checkpoint.convert.convert`; here no name is
        known."""
        return None, value

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        check_map(x, self.in_channels, next(self.stem.parameters()).dtype)
        if not self.cut_padding:
            return self.maps(x)
        return tuple(in_valid_area(self.maps, x, content_sizes(x), self.map_sizes(x.shape[2:])))

    def map_sizes(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """(height, width) of each map that images of `size` give."""
        return [tuple(ceil_div(side, self.stage_strides[i]) for side in size) for i in self.out_indices]

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of images without regard to padding."""
        outs = []
        x = self.stem(x.contiguous(memory_format=torch.channels_last))      # what layers read and give
        for i, stage in enumerate(self.stages):
            x = stage(self.downsamples[i - 1](x) if i else x)
            if i in self.out_indices:
                # mmcv's RoIAlign reads memory as (B, C, H, W) whatever the strides say
                outs.append(self.norms[str(i)](x).contiguous())
        return tuple(outs)

    def train(self, mode: bool = True) -> 'Pyramid':
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        settings = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg or {}]
        path = next((setting['checkpoint'] for setting in settings if is_pretrained(setting)), None)
        if path is None:
            super().init_weights()
            return
        result = load_backbone(self, state_dict_of(read_as_chosen(path), path))
        print_log(f'{type(self).__name__} starts from {path}: {str(result).splitlines()[-1]}', 'current')
        self._is_init = True

    def left_out(self, name: str) -> bool:
        """Whether a parameter of the whole architecture is not built, because `out_indices` does not need it, or
        `out_norm` names other stages."""
        match = re.match(r'(stages|downsamples|norms)\.(\d)\.', name)
        if not match:
            return False
        stage, last = int(match[2]), self.out_indices[-1]
        if match[1] == 'norms':
            return stage not in (self.normed_stages or self.out_indices)
        return stage > last - (match[1] == 'downsamples')

    def get_layer_depth(self, param_name: str, prefix: str = '', *, by_stage: bool = False) -> tuple[int, int]:
        """How deep a parameter lies, for a learning rate that decays with the layers.

        The stem has depth 0, then each block one more, in which what leads into a stage counts to its first block; the
        norms of the outputs have the last depth, as has what does not belong to the backbone.

        Args:
            param_name: of the parameter, in a model perhaps.
            prefix: what the names of this backbone's parameters start with there, for example 'backbone.'.
            by_stage: count stages instead of blocks.

        Returns:
            the depth, and the number of depths that there are.
        """
        sizes = [1 if by_stage else len(stage.blocks) for stage in self.stages]     # type: ignore[arg-type]
        count = sum(sizes) + 2
        name = param_name.removeprefix(prefix) if param_name.startswith(prefix) else ''
        place = re.match(r'(stages|downsamples)\.(\d+)\.(?:blocks\.(\d+))?', name)
        if not place:
            return (0 if name.startswith('stem.') else count - 1), count
        stage = int(place[2]) + (place[1] == 'downsamples')
        block = 0 if by_stage else int(place[3] or 0)
        return 1 + sum(sizes[:stage]) + block, count

    def extra_repr(self) -> str:
        options = [f'{name}={getattr(self, name)}' for name in ('norm_eval', 'cut_padding') if getattr(self, name)]
        if self.frozen_stages >= 0:
            options.append(f'frozen_stages={self.frozen_stages}')
        return ', '.join([f'in_channels={self.in_channels}', f'out_indices={self.out_indices}',
                          f'out_channels={self.out_channels}', *options])

    def _freeze(self) -> None:
        frozen = [self.stem] if self.frozen_stages >= 0 else []
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.stages[i], *([self.downsamples[i - 1]] if i else []),
                       *([self.norms[str(i)]] if i in self.out_indices else [])]
        for module in frozen:
            module.eval().requires_grad_(False)


def _normed_stages(out_norm: bool | Sequence[int], out_indices: tuple[int, ...]) -> tuple[int, ...]:
    """The stages whose map has a norm."""
    if isinstance(out_norm, bool):
        return out_indices if out_norm else ()
    if not isinstance(out_norm, (list, tuple)) or not all(is_whole(i, 0) and i in out_indices for i in out_norm):
        raise ArgumentError(f'out_norm={out_norm!r} must be True, False, or some of out_indices={out_indices}')
    return tuple(out_norm)
