# 16 x 16 regions instead of 7 x 7.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='BiLevelRoutingAttention', num_windows=16, topk=1)],
    [dict(type='BiLevelRoutingAttention', num_windows=16, topk=4)],
    [dict(type='BiLevelRoutingAttention', num_windows=16, topk=16)],
    [dict(type='Attention')],
]
model = dict(backbone=dict(attention=attention))
