# Four regions in the first three stages.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='BiLevelRoutingAttention', num_windows=7, topk=4)],
    [dict(type='BiLevelRoutingAttention', num_windows=7, topk=4)],
    [dict(type='BiLevelRoutingAttention', num_windows=7, topk=4)],
    [dict(type='Attention')],
]
model = dict(backbone=dict(attention=attention))
