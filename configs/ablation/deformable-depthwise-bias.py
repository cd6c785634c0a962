# Deformable attention with a depth-wise convolution instead of a position bias.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=3, position_bias='depthwise')],
    [dict(type='LocalAttention'),
     dict(type='DeformableAttention', offset_groups=6, offset_kernel_size=3, position_bias='depthwise')],
]
model = dict(backbone=dict(attention=attention))
