# RetinaNet with a small BiFormer, trained from scratch on BCCD: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', 'mmdet::_base_/models/retinanet_r50_fpn.py', '../_base_/models/small_biformer.py',
    '../_base_/datasets/bccd.py', '../_base_/schedules/adamw_24e_bccd.py', 'mmdet::_base_/default_runtime.py'
]
# Group norm in the heads: training from scratch needs it.
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone={{_base_.small_biformer_but_first}},
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=64, add_extra_convs=False, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=3, in_channels=64, feat_channels=64, stacked_convs=2, norm_cfg=norm_cfg,
                   anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32])))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
