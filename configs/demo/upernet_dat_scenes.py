# UperNet with a small DAT, trained from scratch on generated scenes: minutes on two CPU cores.
_base_ = ['../dat/dat-t_upernet_8xb2-160k_ade20k-512x512.py', '../_base_/models/dat_scenes.py']

norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=(128, 160)),
    backbone=dict(arch={{_base_.small_dat}}, pretrain_img_size=160, drop_path_rate=0.0),
    decode_head=dict(in_channels=[32, 64, 128, 192], channels=64, num_classes=6, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=6, norm_cfg=norm_cfg))

metainfo = dict(classes=('background', 'disk', 'square', 'triangle', 'star', 'cross'),
                palette=[(40, 40, 40), (230, 60, 60), (60, 160, 230), (240, 190, 40), (90, 190, 90), (170, 90, 210)])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
scenes = dict(type='BaseSegDataset', data_root='data/scenes', metainfo=metainfo, img_suffix='.png',
              seg_map_suffix='.png', reduce_zero_label=True)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(_delete_=True, **scenes, pipeline=train_pipeline,
    data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')))
val_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(_delete_=True, **scenes, pipeline=test_pipeline,
    data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation')))
test_dataloader = val_dataloader

max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, eta_min_ratio=0.01),
]
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=200, max_keep_ckpts=1))
randomness = dict(seed=0)
