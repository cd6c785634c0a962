# Near and far groups with a table of relative position biases (RPB).
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='ShortDistanceAttention', position_bias='table'),
     dict(type='LongDistanceAttention', interval=8, position_bias='table')],
    [dict(type='ShortDistanceAttention', position_bias='table'),
     dict(type='LongDistanceAttention', interval=4, position_bias='table')],
    [dict(type='ShortDistanceAttention', position_bias='table'),
     dict(type='LongDistanceAttention', interval=2, position_bias='table')],
    [dict(type='ShortDistanceAttention', position_bias='table'),
     dict(type='LongDistanceAttention', interval=1, position_bias='table')],
]
model = dict(backbone=dict(attention=attention))
