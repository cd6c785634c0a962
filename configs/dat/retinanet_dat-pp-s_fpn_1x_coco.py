_base_ = 'retinanet_dat-pp-t_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    neck=dict(in_channels=[192, 384, 768]))
