# Deformable attention with no position bias.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=3, position_bias='none')],
    [dict(type='LocalAttention'),
     dict(type='DeformableAttention', offset_groups=6, offset_kernel_size=3, position_bias='none')],
]
model = dict(backbone=dict(attention=attention))
