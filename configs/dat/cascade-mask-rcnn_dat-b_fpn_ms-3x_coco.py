# An assumption, as that of DAT-T; stochastic depth of DAT++.
_base_ = 'cascade-mask-rcnn_dat-t_fpn_ms-3x_coco.py'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.8),
    neck=dict(in_channels=[128, 256, 512, 1024]))
