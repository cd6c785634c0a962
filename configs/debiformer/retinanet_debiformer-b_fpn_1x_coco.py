_base_ = 'retinanet_debiformer-s_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='base', num_windows=32),
    neck=dict(in_channels=[192, 384, 768]))
