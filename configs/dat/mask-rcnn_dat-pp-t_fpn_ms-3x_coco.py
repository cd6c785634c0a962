_base_ = [
    '../_base_/mmattn.py', '../_base_/models/mask-rcnn.py', '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/adamw_3x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DATPlusPlus', arch='tiny', drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512], start_level=0, add_extra_convs='on_input'))
optim_wrapper = dict(type='mmattn.AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(lr=4e-4))
auto_scale_lr = dict(base_batch_size=64)
