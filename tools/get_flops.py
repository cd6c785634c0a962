"""Count parameters and multiply-adds of a config's model: python tools/get_flops.py CONFIG [--shape H W]

For one image in inference. A multiply-add counts once, as in the papers: those of convolutions and matrix products, of
the two products of attention, and four for each value that is sampled bilinearly. Norms, activations, softmax and
interpolation do not count. Attention counts by its formula, whichever implementation would run. A two-stage detector
has 1000 proposals in its box heads and 100 in its mask heads, RoIAlign not counted; an auxiliary head has parameters
but nothing to do in inference.
"""
import argparse
import math
import os
from dataclasses import astuple, dataclass
from unittest.mock import patch

from common import UsageError, add_config, build_model, changed_config, run

SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048)}
PROPOSALS, MASKS = 1000, 100


@dataclass
class Count:
    """Parameters, multiply-adds, and how many of these are products of attention and bilinear samples; beside these,
    what some count too: biases that convolutions add and outputs of ReLU."""
    parameters: int = 0
    total: int = 0
    attention: int = 0
    sampling: int = 0
    pointwise: int = 0

    def __add__(self, other):
        return Count(*(a + b for a, b in zip(astuple(self), astuple(other))))


def count_model(cfg, shape=None):
    """Count each part of the model of a config, on tensors that have shapes but no values.

    Args:
        cfg (Config): with a model of mmdet or mmseg.
        shape (tuple[int, int] | None): (height, width) of the image; None takes the one that the papers count for.

    Returns:
        dict[str, Count]: of 'backbone', 'neck' and the heads.

    Raises:
        UsageError: the model is no detector or segmentor with a backbone.
    """
    import torch
    from torch._subclasses import FakeTensorMode
    shape = shape or SHAPES[cfg.default_scope]
    with torch.device('meta'):
        model = build_model(cfg).eval()
    if not hasattr(model, 'backbone'):
        raise UsageError(f'{type(model).__name__} is not a model with a backbone, of which the parts could be counted')
    model.backbone.cut_padding = False      # there are no values that could show any
    counts = {name: Count(sum(p.numel() for p in part.parameters())) for name, part in model.named_children()
              if any(True for _ in part.parameters())}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device='cpu')
        x = torch.empty(1, 3, *shape)
        for name in ('backbone', 'neck', 'rpn_head', 'bbox_head', 'decode_head'):
            if getattr(model, name, None) is not None:
                out, count = count_call(getattr(model, name), x)
                counts[name] += count
                if name in ('backbone', 'neck'):
                    x = out
        for head, rois in _roi_heads(getattr(model, 'roi_head', None)):
            counts['roi_head'] += count_call(head, rois)[1]
    return counts


def _roi_heads(roi_head):
    """Every box and mask head of a two-stage detector with what RoIAlign gives it."""
    import torch
    for kind, number in (('bbox', PROPOSALS), ('mask', MASKS)):
        heads = getattr(roi_head, f'{kind}_head', None)
        if heads is None:
            continue
        extractors = getattr(roi_head, f'{kind}_roi_extractor')
        several = isinstance(heads, torch.nn.ModuleList)
        for head, extractor in zip(heads if several else [heads], extractors if several else [extractors]):
            size = extractor.roi_layers[0].output_size
            yield head, torch.empty(number, extractor.out_channels, *size)


def count_call(module, x):
    """Call a module; returns what it gives, and the Count of what it does, without its parameters."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.modules.conv import _ConvNd
    from torch.utils.flop_counter import FlopCounterMode

    from mmattn.layers import NeighborhoodAttention
    aten = torch.ops.aten
    counter = FlopCounterMode(display=False, custom_mapping={
        aten.grid_sampler_2d: lambda *args, out_shape, **kwargs: 2 * 4 * out_shape.numel()})
    neighborhoods, pointwise = {}, []
    hooks = [part.register_forward_hook(lambda part, _, out: pointwise.append(out.numel())) for part in module.modules()
             if isinstance(part, torch.nn.ReLU) or (isinstance(part, _ConvNd) and part.bias is not None)]
    hooks += [layer.register_forward_hook(lambda layer, _, out, name=name: neighborhoods.update({name: (layer, out)}))
             for name, layer in module.named_modules() if isinstance(layer, NeighborhoodAttention)]
    # The dense backend is the formula (its bias is sampled), convolutions of patches complete their kernels with zeros,
    # and products are what the counter knows on every device.
    formulas = dict(MMATTN_DEFORMABLE_ATTENTION='dense', MMATTN_CENTRED_CONVOLUTION='reference')
    with patch.dict(os.environ, formulas), sdpa_kernel(SDPBackend.MATH), counter:
        out = module(x)
    for hook in hooks:
        hook.remove()
    flops = counter.get_flop_counts()
    count = Count(0, counter.get_total_flops(), flops['Global'].get(aten.bmm, 0),
                  flops['Global'].get(aten.grid_sampler_2d, 0))
    for name, (layer, seen) in neighborhoods.items():
        # Tiles of queries share their keys: each query uses those of its own window.
        sides = [layer.kernel_size if layer.pad_small else min(layer.kernel_size, side) for side in seen.shape[2:]]
        ran = flops['.'.join(filter(None, (type(module).__name__, name)))][aten.bmm]
        extra = 4 * seen.numel() * math.prod(sides) - ran
        count += Count(0, extra, extra, 0)
    return out, Count(*(n // 2 for n in astuple(count)[:-1]), sum(pointwise))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config(parser)
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='of the image; default 800 1280 for detection, 512 2048 for segmentation')
    args = parser.parse_args()
    if args.shape and min(args.shape) < 1:
        raise UsageError(f'--shape {args.shape[0]} {args.shape[1]}: both sides must be at least 1')
    cfg = changed_config(args)
    shape = args.shape or SHAPES[cfg.default_scope]
    counts = count_model(cfg, shape)
    counts['total'] = sum(counts.values(), Count())
    print(f'{args.config}, 1 x 3 x {shape[0]} x {shape[1]}')
    print('| part | parameters, M | multiply-adds, G | of these attention | of these sampling | without attention |')
    print('|---|---|---|---|---|---|')
    for name, count in counts.items():
        figures = [count.total, count.attention, count.sampling, count.total - count.attention]
        print(f'| {name} | {count.parameters / 1e6:.2f} | ' + ' | '.join(f'{n / 1e9:.1f}' for n in figures) + ' |')


if __name__ == '__main__':
    run(main)
