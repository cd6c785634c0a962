# Offsets of at most 1 cell instead of 2.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=3, offset_range_factor=1.0)],
    [dict(type='LocalAttention'),
     dict(type='DeformableAttention', offset_groups=6, offset_kernel_size=3, offset_range_factor=1.0)],
]
model = dict(backbone=dict(attention=attention))
