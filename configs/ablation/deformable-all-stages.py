# Deformable attention in all stages; the first two have fewer points.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=1, stride=4, offset_kernel_size=7)],
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=3, stride=2)],
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=3)],
    [dict(type='LocalAttention'), dict(type='DeformableAttention', offset_groups=6, offset_kernel_size=3)],
]
model = dict(backbone=dict(attention=attention))
