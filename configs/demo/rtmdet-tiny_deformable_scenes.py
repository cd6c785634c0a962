# RTMDet-tiny with deformable attention behind its SPP, trained from scratch on generated scenes.
_base_ = 'rtmdet-tiny_scenes.py'
model = dict(neck=[
    dict(type='mmattn.AttentionNeck', in_channels=[96, 192, 384], levels=[-1],
         attention=dict(type='DeformableAttention', num_heads=12, offset_groups=3, offset_kernel_size=3, table_size=5)),
    {{_base_.model.neck}},
])
