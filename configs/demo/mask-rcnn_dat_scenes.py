# Mask R-CNN with a small DAT, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = [
    '../_base_/mmattn.py', 'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/models/small_dat.py',
    '../_base_/datasets/scenes_instance.py', '../_base_/schedules/adamw_5e_scenes.py',
    'mmdet::_base_/default_runtime.py'
]
# Group norm in the heads: training from scratch needs it.
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone={{_base_.small_dat}},
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=64, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[5])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=20, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type='ConvFCBBoxHead', num_shared_convs=1, num_shared_fcs=1, in_channels=64, conv_out_channels=64,
            fc_out_channels=256, norm_cfg=norm_cfg, reg_class_agnostic=True, num_classes=5),
        mask_roi_extractor=dict(out_channels=64, finest_scale=20, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_convs=2, norm_cfg=norm_cfg, class_agnostic=True,
                       num_classes=5)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=60),
        rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=60)))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
