"""Compare our modules with values of the authors' code: `python -m tests.parity CASE.json…`.

A case names the parameters of a reference module and holds samples of its outputs and gradient (see `tests.filler`).
The module is built here from the case's configuration, given the same weights through the checkpoint conversion, and
run forward and backward. Prints a line per case; exits 1 if one is off by more than the tolerances.
"""
import sys
from dataclasses import dataclass

import torch
from einops import rearrange

from mmattn.backbones import DAT, BiFormer, CrossFormer, DeBiFormer
from mmattn.checkpoint import biformer, crossformer, dat, debiformer
from mmattn.checkpoint.convert import convert, fit
from mmattn.layers import (
    BiLevelRoutingAttention,
    DeformableAttention,
    DeformableBiLevelRoutingAttention,
    DeformableDETRAttention,
)
from mmattn.ops.routing import region_view
from tests import filler

OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 1e-4


@dataclass
class Subject:
    """A module of ours with the weights of a case; `run` maps the input to the outputs that the case names."""
    module: torch.nn.Module
    translate: callable
    run: callable


def dat_attention(c):
    position_bias = next((name for key, name in (('dwc_pe', 'depthwise'), ('fixed_pe', 'fixed'),
                                                 ('log_cpb', 'log_cpb')) if c.get(key)), 'table')
    v2 = c['generation'] == 'v2'
    if not c['use_pe'] or (c['no_off'] and v2):
        position_bias = 'none'
    layer = DeformableAttention(
        c['num_heads'] * c['head_dim'], c['num_heads'], offset_groups=c['num_groups'], stride=c['stride'],
        offset_kernel_size=c['kernel_size'], offset_range_factor=c['offset_range_factor'], offsets=not c['no_off'],
        position_bias=position_bias, table_size=c['table_size'], convention='dat_pp' if v2 else 'dat')

    def run(x):
        points, _ = layer.sampling_points(layer.proj_q(x))
        return dict(out=layer(x), points=points)

    return Subject(layer, dat.translate_attention, run)


def ddetr_attention(c):
    layer = DeformableDETRAttention(c['num_heads'] * c['head_dim'], c['num_heads'], num_points=c['points_per_query'],
                                    map_size=c['table_size'])
    return Subject(layer, dat.translate_attention, lambda x: dict(out=layer(x)))


def dat_backbone(c):
    v2 = c['generation'] == 'v2'
    plain = 'depthwise_residual' if v2 else 'depthwise'

    def value(key, i, default):
        return c[key][i] if key in c else default

    def bias(i):
        if not value('use_pes', i, False) or (v2 and value('no_offs', i, False)):
            return 'none'
        kinds = (('dwc_pes', 'depthwise'), ('fixed_pes', 'fixed'), ('log_cpb', 'log_cpb'))
        return next((kind for key, kind in kinds if value(key, i, False)), 'table')

    arch = [dict(
        embed_dims=c['dims'][i], num_heads=c['heads'][i], blocks=''.join(c['stage_spec'][i]),
        window_size=c['window_sizes'][i], kernel_size=value('nat_ksizes', i, 3), sr_ratio=max(c['sr_ratios'][i], 1),
        stride=max(c['strides'][i], 1), offset_groups=max(c['groups'][i], 1),
        offset_kernel_size=value('ksizes', i, (9, 7, 5, 3)[i]), offset_range_factor=c['offset_range_factor'][i],
        offsets=not c['no_offs'][i], position_bias=bias(i), lpu=value('use_lpus', i, False),
        mlp=plain if c['use_dwc_mlps'][i] else 'linear', layer_scale=max(value('layer_scale_values', i, 0), 0),
    ) for i in range(4)]
    convolutions = 'convolutional' if v2 else 'overlapping'
    backbone = DAT(arch, patch_size=c['patch_size'], stem=convolutions if c['use_conv_patches'] else 'patch',
                   convention='dat_pp' if v2 else 'dat', mlp_ratio=c['expansion'], pretrain_img_size=c['img_size'],
                   pad_patches=False, out_norm=False)
    return Subject(backbone, dat.translate, lambda x: {f'stage{i}': out for i, out in enumerate(backbone(x))})


def routing_options(c, mode, kv_per_win, kv_ratio):
    """Options of routing attention that layers and backbones spell alike."""
    return dict(
        scale=c.get('qk_scale'), out_proj=c.get('param_attention', 'qkvo') == 'qkvo', kv_sampling=mode,
        kv_size=max(kv_per_win if mode.startswith('ada') else kv_ratio, 1),
        **{key: c.get(key, False) for key in ('param_routing', 'diff_routing', 'soft_routing')})


def routing_layer(c, pad):
    return BiLevelRoutingAttention(
        c['dim'], c.get('num_heads', 8), num_windows=c.get('n_win', 7), topk=c['topk'], qk_dims=c.get('qk_dim'),
        lepe_kernel_size=c.get('side_dwconv', 3), pad=pad, **routing_options(
            c, c.get('kv_downsample_mode', 'identity'), c.get('kv_per_win', 4), c.get('kv_downsample_ratio', 4)))


def bra(c):
    layer = routing_layer(c, 'before')
    return Subject(layer, biformer.translate_attention,
                   lambda x: dict(out=layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))


def bra_nchw(c):
    layer = routing_layer(c, 'after')
    return Subject(layer, biformer.translate_attention, lambda x: dict(out=layer(x)))


def biformer_backbone(c):
    kinds = {0: 'C', -1: 'A', -2: 'E'}
    arch = []
    for i, topk in enumerate(c['topks']):
        routing = dict(qk_dims=c['qk_dims'][i], **routing_options(
            c, c.get('kv_downsample_mode', 'ada_avgpool'), c.get('kv_per_wins', (2, 2, -1, -1))[i],
            c.get('kv_downsample_ratios', (4, 2, 1, 1))[i]))
        arch.append(dict(
            embed_dims=c['embed_dim'][i], num_heads=c['qk_dims'][i] // c['head_dim'],
            blocks=kinds.get(topk, 'R') * c['depth'][i], topk=max(topk, 1), num_windows=c['n_win'], routing=routing,
            lepe_kernel_size=c['side_dwconv'], pos_kernel_size=c['before_attn_dwconv'], mlp_ratio=c['mlp_ratios'][i],
            mlp='depthwise' if c.get('mlp_dwconv') else 'linear', layer_scale=max(c['layer_scale_init_value'], 0),
            pre_norm=c['pre_norm']))
    backbone = BiFormer(arch, out_norm=False)
    return Subject(backbone, biformer.translate, lambda x: {f'stage{i}': out for i, out in enumerate(backbone(x))})


def biformer_stl_backbone(c):
    arch = [dict(embed_dims=dims, num_heads=dims // c['head_dim'], blocks=('R' if topk > 0 else 'E') * depth,
                 topk=max(topk, 1), num_windows=windows, routing=dict(pad='after'), lepe_kernel_size=c['side_dwconv'],
                 lepe_of='value', pos_kernel_size=0, mlp_ratio=ratio)
            for dims, topk, depth, windows, ratio in zip(c['embed_dim'], c['topks'], c['depth'], c['n_wins'],
                                                         c['mlp_ratios'])]
    backbone = BiFormer(arch, stem='patch', out_norm=False)
    return Subject(backbone, biformer.translate, lambda x: {f'stage{i}': out for i, out in enumerate(backbone(x))})


def crossformer_backbone(c):
    conditional = c.get('use_cpe', False)
    arch = [dict(
        embed_dims=c['embed_dim'] * 2 ** i, num_heads=c['num_heads'][i], blocks=('SL' * depth)[:depth],
        group_size=c['group_size'][i], interval=c['crs_interval'][i], qkv_bias=c['qkv_bias'],
        adaptive_interval=c.get('adaptive_interval', False), far_groups=c.get('far_groups', 'block'),
        position='conditional' if conditional else 'dynamic',
        position_rows=c['img_size'][0] // c['patch_size'][0] // 2 ** i if conditional else None,
        mlp_ratio=c['mlp_ratio'], cooling=c.get('use_acl', False),
    ) for i, depth in enumerate(c['depths'])]
    backbone = CrossFormer(arch, c['in_chans'], stem_kernel_sizes=c['patch_size'],
                           downsample_kernel_sizes=c['merge_size'][0])
    return Subject(backbone, crossformer.translate, lambda x: {f'stage{i}': out for i, out in enumerate(backbone(x))})


def debra_attention(c):
    layer = DeformableBiLevelRoutingAttention(
        c['dim'], c['num_heads'], offset_groups=c['n_groups'], stride=c['stride_def'], offset_kernel_size=c['kk'],
        num_windows=c['n_win'], topk=c['topk'], mlp_ratio=c['expain_ratio'], lepe_kernel_size=c['side_dwconv'],
        table_size=c['q_size'])

    def run(x):
        x = x.permute(0, 3, 1, 2)
        agents = layer.agents(x)
        height, width = layer.points(agents.q).shape[2:4]       # without padding
        grid, heads = (c['n_win'],) * 2, c['num_heads']
        q = rearrange(region_view(agents.routing, grid), 'b gy gx y x (h d) -> (b gy gx) h (y x) d', h=heads)
        k = region_view(agents.k, grid).flatten(1, 2)
        k = torch.stack([image[chosen] for image, chosen in zip(k, agents.chosen.flatten(1, 2))])
        k = rearrange(k, 'b n k y x (h d) -> (b n) h (k y x) d', h=heads)
        return dict(out=layer(x).permute(0, 2, 3, 1), points=agents.points[:, :, :height, :width],
                    r_weight=agents.logits.flatten(1, 2).softmax(-1), r_idx=agents.chosen.flatten(1, 2),
                    attn_weight=(q * layer.scale @ k.mT).softmax(-1))

    return Subject(layer, debiformer.translate_attention, run)


def debiformer_backbone(c):
    topks = {4: (1, 4), 8: (4, 8), 16: (16, 16), -2: (1, 49)}       # of routing attention and of agents
    arch = [dict(
        embed_dims=c['embed_dim'][i], num_heads=c['embed_dim'][i] // c['head_dim'],
        blocks=('D' if topk == -2 else 'R') * c['depth'][i], topk=topks[topk][0], agent_topk=topks[topk][1],
        num_windows=c['n_win'], stride=c['stride_def'][i], offset_groups=c['n_groups'][i],
        offset_kernel_size=c['kk'][i], table_size=c['q_size'][i], mlp_ratio=c['mlp_ratios'][i],
        agent_mlp_ratio=c['expain_ratio'][i]) for i, topk in enumerate(c['topks'])]
    backbone = DeBiFormer(arch)
    return Subject(backbone, debiformer.translate, lambda x: {f'stage{i}': out for i, out in enumerate(backbone(x))})


KINDS = dict(biformer_backbone=biformer_backbone, biformer_stl_backbone=biformer_stl_backbone, bra=bra,
             bra_nchw=bra_nchw, crossformer_backbone=crossformer_backbone, dat_attention=dat_attention,
             ddetr_attention=ddetr_attention, dat_backbone=dat_backbone, debra_attention=debra_attention,
             debiformer_backbone=debiformer_backbone)


def errors(case, dtype=torch.float32):
    """Relative error of each output of a case and of the gradient of its input."""
    subject = KINDS[case['kind']](case['config'])
    state = {key: value.to(dtype) if value.is_floating_point() else value
             for key, value in filler.state_dict(case).items()}
    conversion = convert(state, subject.translate)
    fit(conversion, subject.module)
    subject.module.to(dtype).eval().load_state_dict(conversion.backbone)
    x = filler.image(case).to(dtype).requires_grad_()
    outputs = subject.run(x)
    loss = sum(out.square().mean() for out in outputs.values() if out.is_floating_point())
    outputs['grad_input'], = torch.autograd.grad(loss, x)
    return filler.check(case, outputs)


def main(paths):
    if not paths:
        sys.exit('usage: python -m tests.parity CASE.json…')
    failed = 0
    for path in paths:
        case = filler.load(path)
        if case['kind'] not in KINDS:
            print(f'{case["name"]}: FAILED, unknown kind {case["kind"]!r}')
            failed += 1
            continue
        found = errors(case)
        wrong = [name for name, error in found.items()
                 if not error <= (GRADIENT_TOLERANCE if name == 'grad_input' else OUTPUT_TOLERANCE)]
        failed += bool(wrong)
        line = '  '.join(f'{name} {error:.1e}' for name, error in found.items())
        print(f'{case["name"]}: {"FAILED, " + ", ".join(wrong) if wrong else "ok"}  {line}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main(sys.argv[1:])
