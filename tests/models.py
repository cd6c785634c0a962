"""A small layer of every kind, and small models with a block of every kind."""
from mmattn import layers
from mmattn.backbones import DAT, BiFormer, CrossFormer, DATPlusPlus, DeBiFormer

LAYERS = {
    'Attention': lambda: layers.Attention(24, 3),
    'AttentionBlock': lambda: layers.AttentionBlock(24, dict(type='LocalAttention', num_heads=3), mlp_ratio=2.0),
    'BiLevelRoutingAttention': lambda: layers.BiLevelRoutingAttention(24, 3, num_windows=3, topk=2),
    'CrossScaleEmbedding': lambda: layers.CrossScaleEmbedding(24, 24, kernel_sizes=(2, 4), stride=2),
    'DeformableAttention': lambda: layers.DeformableAttention(24, 3, offset_groups=3),
    'DeformableBiLevelRoutingAttention': lambda: layers.DeformableBiLevelRoutingAttention(
        24, 3, num_windows=3, topk=2, stride=2),
    'DeformableDETRAttention': lambda: layers.DeformableDETRAttention(24, 3),
    'DepthwiseMLP': lambda: layers.DepthwiseMLP(24),
    'LocalAttention': lambda: layers.LocalAttention(24, 3, window_size=5),
    'LongDistanceAttention': lambda: layers.LongDistanceAttention(24, 3, group_size=3, interval=2),
    'MLP': lambda: layers.MLP(24),
    'NeighborhoodAttention': lambda: layers.NeighborhoodAttention(24, 3),
    'ShiftedWindowAttention': lambda: layers.ShiftedWindowAttention(24, 3, window_size=5),
    'ShortDistanceAttention': lambda: layers.ShortDistanceAttention(24, 3, group_size=3),
    'SpatialReductionAttention': lambda: layers.SpatialReductionAttention(24, 3, sr_ratio=2),
}

SMALL = [dict(embed_dims=8, num_heads=2, blocks='LS', window_size=3),
         dict(embed_dims=12, num_heads=2, blocks='S', window_size=4),
         dict(embed_dims=16, num_heads=4, blocks='LD', window_size=3, offset_groups=2),
         dict(embed_dims=24, num_heads=6, blocks='D', offset_groups=3, offset_kernel_size=3)]

_PLUS = dict(lpu=True, mlp='depthwise_residual', offset_range_factor=-1)
SMALL_PP = [dict(embed_dims=8, num_heads=2, blocks='ND', kernel_size=3, stride=8, offset_kernel_size=9, **_PLUS),
            dict(embed_dims=12, num_heads=2, blocks='PD', sr_ratio=2, stride=4, offset_kernel_size=4, **_PLUS),
            dict(embed_dims=16, num_heads=4, blocks='XD', stride=2, window_size=5, position_bias='log_cpb', **_PLUS),
            dict(embed_dims=24, num_heads=6, blocks='DL', offset_groups=3, layer_scale=0.1, **_PLUS)]

SMALL_BI = [dict(embed_dims=8, num_heads=2, blocks='RR', topk=1, num_windows=3),
            dict(embed_dims=16, num_heads=2, blocks='R', topk=2, num_windows=2, layer_scale=0.1, mlp='depthwise'),
            dict(embed_dims=16, num_heads=4, blocks='RC', topk=3, num_windows=2, pre_norm=False,
                 routing=dict(kv_sampling='ada_avgpool', kv_size=2, soft_routing=True)),
            dict(embed_dims=24, num_heads=6, blocks='AE')]


SMALL_CROSS = [dict(embed_dims=8, num_heads=2, blocks='SL', group_size=3, interval=4),
               dict(embed_dims=16, num_heads=2, blocks='SLSL', group_size=[2, 3, 4, 5], interval=2, cooling=True),
               dict(embed_dims=32, num_heads=4, blocks='SL', group_size=3, adaptive_interval=True, position='table'),
               dict(embed_dims=64, num_heads=8, blocks='L', group_size=2, position='conditional')]


SMALL_DEBI = [dict(embed_dims=8, num_heads=2, blocks='RR', topk=1, agent_topk=2, num_windows=3, stride=4),
              dict(embed_dims=16, num_heads=4, blocks='R', topk=2, num_windows=2, stride=2, offset_groups=2),
              dict(embed_dims=16, num_heads=4, blocks='RD', num_windows=2, offset_groups=4, agent_mlp_ratio=1.0),
              dict(embed_dims=24, num_heads=6, blocks='D', num_windows=2, table_size=3)]


def small(**options):
    return DAT(**dict(arch=SMALL, pretrain_img_size=64) | options)


def small_pp(**options):
    return DATPlusPlus(**dict(arch=SMALL_PP, pretrain_img_size=64) | options)


def small_bi(**options):
    return BiFormer(**dict(arch=SMALL_BI) | options)


def small_cross(**options):
    return CrossFormer(**dict(arch=SMALL_CROSS) | options)


def small_debi(**options):
    return DeBiFormer(**dict(arch=SMALL_DEBI) | options)


BACKBONES = {'DAT': small, 'DAT++': small_pp, 'BiFormer': small_bi, 'CrossFormer': small_cross,
             'DeBiFormer': small_debi}
