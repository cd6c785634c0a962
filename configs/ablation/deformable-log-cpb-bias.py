# Deformable attention with a network of log-spaced displacements as position bias.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=3, position_bias='log_cpb')],
    [dict(type='LocalAttention'),
     dict(type='DeformableAttention', offset_groups=6, offset_kernel_size=3, position_bias='log_cpb')],
]
model = dict(backbone=dict(attention=attention))
