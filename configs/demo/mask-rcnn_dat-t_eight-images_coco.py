# A learning check: Mask R-CNN with DAT-T from scratch on eight COCO images at a reduced size, evaluated on the same
# eight (of the first in train2017, those with few small objects). Only a model whose gradients, targets and evaluation
# really meet can learn them by heart.
_base_ = '../dat/mask-rcnn_dat-t_fpn_1x_coco.py'

scale = (320, 224)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
                                          'instances')),
]
eight = dict(ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'),
             indices=[0, 1, 4, 8, 9, 10, 12, 18])
train_dataloader = dict(
    batch_size=2, num_workers=1, sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True), batch_sampler=None,
    dataset=dict(**eight, filter_cfg=dict(filter_empty_gt=False, min_size=0), pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**eight, pipeline=test_pipeline))
test_dataloader = val_dataloader
# Without an annotation file the metric takes the ground truth from the eight samples themselves.
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

max_iters = 400
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=max_iters, eta_min_ratio=0.01),
]
model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1))),
    train_cfg=dict(rpn_proposal=dict(nms_pre=300, max_per_img=100), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)))
optim_wrapper = dict(optimizer=dict(lr=2e-4), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(by_epoch=False, interval=200, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
