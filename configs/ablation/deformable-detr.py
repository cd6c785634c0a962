# Points of its own for every query (Deformable DETR), in the last two stages.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')],
    [dict(type='LocalAttention'), dict(type='DeformableDETRAttention')],
    [dict(type='LocalAttention'), dict(type='DeformableDETRAttention')],
]
model = dict(backbone=dict(attention=attention))
