# RetinaNet on the last three maps of a small backbone. Group norm in the heads: training from scratch needs it.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=64, add_extra_convs=False, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2, norm_cfg=norm_cfg,
                   anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32])))
