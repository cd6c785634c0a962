# Bi-level routing attention, 1, 4, 16 and all of 7 x 7 regions in the four stages: BiFormer-STL without its LePE on
# full attention.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='BiLevelRoutingAttention', num_windows=7, topk=1)],
    [dict(type='BiLevelRoutingAttention', num_windows=7, topk=4)],
    [dict(type='BiLevelRoutingAttention', num_windows=7, topk=16)],
    [dict(type='Attention')],
]
model = dict(backbone=dict(attention=attention))
