_base_ = [
    '../_base_/mmattn.py', '../_base_/models/mask-rcnn.py', 'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DeBiFormer', arch='small', num_windows=16, drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]))
train_dataloader = dict(batch_size=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1501),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    optimizer=dict(lr=5e-5),
    # told by name, as the authors do, the batch norms of these parts decay
    paramwise_cfg=dict(custom_keys={
        'backbone.stem': dict(decay_mult=1.), 'backbone.downsamples': dict(decay_mult=1.)}))
auto_scale_lr = dict(base_batch_size=8)
