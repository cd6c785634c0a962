# Keys and values from a shrunk map (PVT), in turn with windows.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='LocalAttention'), dict(type='SpatialReductionAttention', sr_ratio=8)],
    [dict(type='LocalAttention'), dict(type='SpatialReductionAttention', sr_ratio=4)],
    [dict(type='LocalAttention'), dict(type='SpatialReductionAttention', sr_ratio=2)],
    [dict(type='LocalAttention'), dict(type='SpatialReductionAttention', sr_ratio=1)],
]
model = dict(backbone=dict(attention=attention))
