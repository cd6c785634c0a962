_base_ = 'mask-rcnn_debiformer-s_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='base', num_windows=32, drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]))
train_dataloader = dict(batch_size=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=5001),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(type='mmattn.AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(lr=2.5e-5))
