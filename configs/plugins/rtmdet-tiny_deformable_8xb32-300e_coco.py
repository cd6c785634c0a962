# RTMDet-tiny with deformable attention behind its SPP, on the deepest level.
_base_ = ['../_base_/mmattn.py', 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py']
model = dict(neck=[
    dict(type='mmattn.AttentionNeck', in_channels=[96, 192, 384], levels=[-1], layer_scale=0.1,
         attention=dict(type='DeformableAttention', num_heads=12, offset_groups=3, table_size=20)),
    {{_base_.model.neck}},
])
