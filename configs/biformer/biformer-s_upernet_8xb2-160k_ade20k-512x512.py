_base_ = [
    '../_base_/mmattn.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.BiFormer', arch='small', num_windows=8, drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper', loss_scale='dynamic',
    # told by name, as the authors do, the batch norms of these parts decay
    paramwise_cfg=dict(custom_keys={
        'backbone.stem': dict(decay_mult=1.), 'backbone.downsamples': dict(decay_mult=1.)}))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='mIoU'))
sync_bn = 'torch'     # the backbone's batch norms, too, see all images of a step
