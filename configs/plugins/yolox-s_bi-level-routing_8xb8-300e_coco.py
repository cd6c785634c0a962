# YOLOX-S with bi-level routing attention behind its SPP, on the deepest level.
_base_ = ['../_base_/mmattn.py', 'mmdet::yolox/yolox_s_8xb8-300e_coco.py']
model = dict(neck=[
    dict(type='mmattn.AttentionNeck', in_channels=[128, 256, 512], levels=[-1], layer_scale=0.1,
         attention=dict(type='BiLevelRoutingAttention', num_heads=16, num_windows=5, topk=4)),
    {{_base_.model.neck}},
])
