"""What the backbones share: a stem, stages with a downsampling before each but the first, a norm per output."""
import re
from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmattn.checkpoint.convert import load_backbone, translate_on_load
from mmattn.checkpoint.reading import read_checkpoint, state_dict_of
from mmattn.checks import check_at_least, check_map, check_rate
from mmattn.layers import LayerNorm2d
from mmattn.ops.padding import content_sizes, in_valid_area


def resolve_stages(arch, presets, record, **overrides):
    """The stages of a named architecture, or the given ones.

    Args:
        arch (str | Sequence[dict]): a key of `presets`, or the fields of each stage.
        presets (dict[str, Sequence[dict]]): the named architectures.
        record (type): dataclass of a stage.
        overrides: a field's value for all stages, or a sequence of one for each; None leaves what the stages say.

    Returns:
        list: of `record`.

    Raises:
        ValueError: the name is unknown, or an override has not one value for each stage.
    """
    if isinstance(arch, str):
        if arch not in presets:
            raise ValueError(f'arch={arch!r} is unknown; choose one of {", ".join(presets)}, or give a list of stages')
        arch = presets[arch]
    if not isinstance(arch, Sequence) or not arch or not all(isinstance(stage, Mapping) for stage in arch):
        raise ValueError(f'arch={arch!r} must be a name or a list of dicts, one for each stage')
    stages = [record(**stage) for stage in arch]
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
            raise ValueError(f'blocks={stage.blocks!r} must be a letter for each block')
    return stages


def check_per_stage(name, values, count):
    """Raise ValueError unless there is a value for each of `count` stages."""
    if not isinstance(values, Sequence):
        raise ValueError(f'{name}={values!r} must be a list of {count}, one for each stage')
    if len(values) != count:
        raise ValueError(f'{name} is given for {len(values)} stages of {count}: {values}')


def linear_rates(last, count):
    """`count` stochastic depth rates, rising linearly from 0 to `last`."""
    check_rate('drop_path_rate', last)
    return [last * i / max(count - 1, 1) for i in range(count)]


def init_linear(model):
    """Start linear maps with normal weights of standard deviation 0.02 and biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Stage(nn.Module):
    """Blocks one after the other; `with_cp` recomputes each block in the backward pass instead of storing it."""

    def __init__(self, blocks, with_cp=False):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x):
        for block in self.blocks:
            if self.with_cp and self.training and x.requires_grad:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class PatchConv(nn.Conv2d):
    """A convolution of patches that do not overlap.

    Args:
        in_channels, out_channels (int): channels.
        patch_size (int): side of a patch.
        bias (bool): whether it has one.
        pad (bool): True completes the last patches with zeros; False leaves out rows and columns that do not fill
            one, unless there is no whole patch.
    """

    def __init__(self, in_channels, out_channels, patch_size, bias=True, pad=True):
        super().__init__(in_channels, out_channels, patch_size, patch_size, bias=bias)
        self.pad = pad

    def forward(self, x):
        bottom, right = (-side % patch if self.pad else max(patch - side, 0)
                         for side, patch in zip(x.shape[2:], self.kernel_size))
        return super().forward(F.pad(x, (0, right, 0, bottom)) if bottom or right else x)


class Pyramid(BaseModule):
    """Base of the backbones: (B, 3, H, W) images in, one map per chosen stage out.

    Stages behind the last of `out_indices` are not built, so that every parameter gets a gradient. Wherever parameters
    are loaded, those of the authors' files are taken too, in a whole detector or segmentor as well; those of another
    architecture raise `CheckpointError`.

    Args:
        in_channels (int): channels of the image.
        stem (nn.Module): image -> input of the first stage.
        stages (list[nn.Module]): the stages.
        downsamples (list[nn.Module]): `downsamples[i]` leads from stage i to stage i + 1.
        dims (list[int]): channels of each stage.
        out_indices (Sequence[int]): stages to return, ascending.
        frozen_stages (int): -1 trains everything; n >= 0 freezes the stem and the first n stages, with what leads
            into them, and keeps them in eval mode.
        norm_eval (bool): keep batch norms in eval mode during training.
        out_norm (bool): layer norm on each returned map, as the published detectors and segmentors have.
        norm_layer (Callable[[int], nn.Module]): makes that norm for a number of channels.
        stem_stride (int): pixels of the image per pixel of the first stage; stages halve the map.
        cut_padding (bool): make an image independent of its neighbours in a batch; the published models are not. The
            zeros that fill a batch at the bottom and right are cut off (see `mmattn.ops.padding`), images of equal size
            go through the network together, and maps are zero in the padding. Data preprocessors of mmdet and mmseg
            fill with zeros after normalisation unless `pad_value` or `pad_val` says otherwise. Last rows and columns
            of an image whose values are all zero count as padding, but not all of an image. Batch norms in training see
            the images of one size at a time. Sizes are read from values, which a GPU has to wait for and which cannot
            be exported.
        init_cfg (dict | None): initialization as MMEngine describes it. `dict(type='Pretrained', checkpoint=…)` takes
            our files and the authors', of classifiers, detectors and segmentors; position bias tables of another size
            are resized, and a file that does not fit raises `CheckpointError`.

    Attributes:
        translate (Callable): the authors' parameters -> ours, see `mmattn.checkpoint.convert.convert`.
    """

    translate = None

    def __init__(self, in_channels, stem, stages, downsamples, dims, out_indices=(0, 1, 2, 3), frozen_stages=-1,
                 norm_eval=False, out_norm=True, norm_layer=LayerNorm2d, stem_stride=4, cut_padding=False,
                 init_cfg=None):
        super().__init__(init_cfg)
        chosen = [i for i in range(len(stages)) if isinstance(out_indices, Sequence) and i in list(out_indices)]
        if not chosen or chosen != list(out_indices):
            raise ValueError(f'out_indices={out_indices!r} must be ascending stage numbers from 0 to {len(stages) - 1}')
        if frozen_stages not in range(-1, len(stages) + 1):
            raise ValueError(f'frozen_stages={frozen_stages!r} is outside -1 to {len(stages)}')
        self.in_channels = in_channels
        self.out_indices = out_indices = tuple(chosen)
        self.frozen_stages = int(frozen_stages)
        self.norm_eval = norm_eval
        self.cut_padding = cut_padding
        self.stage_strides = [stem_stride * 2 ** i for i in range(len(stages))]
        self.stem = stem
        self.stages = nn.ModuleList(stages[:out_indices[-1] + 1])
        self.downsamples = nn.ModuleList(downsamples[:out_indices[-1]])
        self.norms = nn.ModuleDict({str(i): norm_layer(dims[i]) if out_norm else nn.Identity() for i in out_indices})
        self.register_load_state_dict_pre_hook(translate_on_load)
        self._freeze()

    def forward(self, x):
        check_map(x, self.in_channels, next(self.stem.parameters()).dtype)
        if not self.cut_padding:
            return self.maps(x)
        return in_valid_area(self.maps, x, content_sizes(x), self.map_sizes(x.shape[2:]))

    def map_sizes(self, size):
        """(height, width) of each map that images of `size` give."""
        return [tuple(-(-side // self.stage_strides[i]) for side in size) for i in self.out_indices]

    def maps(self, x):
        """The maps of images without regard to padding."""
        outs = []
        x = self.stem(x.contiguous(memory_format=torch.channels_last))      # what layers read and give
        for i, stage in enumerate(self.stages):
            x = stage(self.downsamples[i - 1](x) if i else x)
            if i in self.out_indices:
                # mmcv's RoIAlign reads memory as (B, C, H, W) whatever the strides say
                outs.append(self.norms[str(i)](x).contiguous())
        return tuple(outs)

    def train(self, mode=True):
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self):
        settings = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg or {}]
        path = next((setting['checkpoint'] for setting in settings if setting.get('type') == 'Pretrained'), None)
        if path is None:
            super().init_weights()
            return
        result = load_backbone(self, state_dict_of(read_checkpoint(path), path), self.translate)
        print_log(f'{type(self).__name__} starts from {path}: {str(result).splitlines()[-1]}', 'current')
        self._is_init = True

    def left_out(self, name):
        """Whether a parameter of the whole architecture is not built, because `out_indices` does not need it."""
        last = self.out_indices[-1]
        match = re.match(r'(stages|downsamples|norms)\.(\d)\.', name)
        return bool(match) and (int(match[2]) not in self.out_indices if match[1] == 'norms' else
                                int(match[2]) > last - (match[1] == 'downsamples'))

    def _freeze(self):
        frozen = [self.stem] if self.frozen_stages >= 0 else []
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.stages[i], *([self.downsamples[i - 1]] if i else []),
                       *([self.norms[str(i)]] if i in self.out_indices else [])]
        for module in frozen:
            module.eval().requires_grad_(False)
