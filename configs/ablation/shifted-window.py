# Shifted windows in all stages: Swin-T.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [dict(type='LocalAttention'), dict(type='ShiftedWindowAttention')]
model = dict(backbone=dict(attention=attention))
