_base_ = 'cascade-mask-rcnn_dat-pp-t_fpn_ms-3x_coco.py'
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.5),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer={{_base_.optim_wrapper.optimizer}},
                      paramwise_cfg={{_base_.no_decay}})
