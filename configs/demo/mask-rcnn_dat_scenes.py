# Mask R-CNN with a small DAT, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = ['../dat/mask-rcnn_dat-t_fpn_1x_coco.py', '../_base_/models/dat_scenes.py']

# Group norm in the heads: training from scratch needs it.
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(arch={{_base_.small_dat}}, pretrain_img_size=160),
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

data_root = 'data/scenes/'
metainfo = dict(classes=('disk', 'square', 'triangle', 'star', 'cross'),
                palette=[(230, 60, 60), (60, 160, 230), (240, 190, 40), (90, 190, 90), (170, 90, 210)])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='annotations/instances_training.json',
        data_prefix=dict(img='images/training/'), filter_cfg=dict(min_size=4), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='annotations/instances_validation.json',
        data_prefix=dict(img='images/validation/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_validation.json')
test_evaluator = val_evaluator

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', begin=0, end=max_epochs, eta_min_ratio=0.01, by_epoch=True,
         convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
