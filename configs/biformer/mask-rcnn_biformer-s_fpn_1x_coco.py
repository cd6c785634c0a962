_base_ = [
    '../_base_/mmattn.py', '../_base_/models/mask-rcnn.py', 'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x_coco.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.BiFormer', arch='small', num_windows=16, drop_path_rate=0.2, norm_eval=True),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper', loss_scale='dynamic',
    # told by name, as the authors do, the batch norms of these parts decay
    paramwise_cfg=dict(custom_keys={
        'backbone.stem': dict(decay_mult=1.), 'backbone.downsamples': dict(decay_mult=1.)}))
