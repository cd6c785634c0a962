# Near and far groups in turn, with dynamic position bias (DPB): CrossFormer with single-scale embeddings.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
attention = [
    [dict(type='ShortDistanceAttention'), dict(type='LongDistanceAttention', interval=8)],
    [dict(type='ShortDistanceAttention'), dict(type='LongDistanceAttention', interval=4)],
    [dict(type='ShortDistanceAttention'), dict(type='LongDistanceAttention', interval=2)],
    [dict(type='ShortDistanceAttention'), dict(type='LongDistanceAttention', interval=1)],
]
model = dict(backbone=dict(attention=attention))
