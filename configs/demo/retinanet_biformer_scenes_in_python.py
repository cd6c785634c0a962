# retinanet_biformer_scenes.py with classes instead of their names: an editor follows and completes them. Both build the
# same training. The libraries' own bases are text, so that what the other takes from mmdet is written out here.
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.models import FPN, DetDataPreprocessor, RetinaHead, RetinaNet
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.nn import GroupNorm
from torch.optim import AdamW

from mmattn.backbones import BiFormer

with read_base():
    from .._base_.datasets.scenes_detection_in_python import *  # noqa: F403

default_scope = 'mmdet'
# Group norm in the heads: training from scratch needs it.
norm_cfg = dict(type=GroupNorm, num_groups=16)
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                           bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(
        type=BiFormer, num_windows=4, out_norm=(1, 2, 3),
        arch=[
            dict(embed_dims=32, num_heads=2, blocks='RR', topk=1),
            dict(embed_dims=64, num_heads=4, blocks='RR', topk=2),
            dict(embed_dims=128, num_heads=8, blocks='RR', topk=4),
            dict(embed_dims=192, num_heads=12, blocks='EE'),
        ]),
    neck=dict(type=FPN, in_channels=[32, 64, 128, 192], out_channels=64, start_level=1, add_extra_convs=False,
              num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        type=RetinaHead, num_classes=5, in_channels=64, feat_channels=64, stacked_convs=2, norm_cfg=norm_cfg,
        anchor_generator=dict(type=AnchorGenerator, octave_base_scale=2, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
                              strides=[8, 16, 32]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type=PseudoSampler), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
                  max_per_img=100))

max_epochs = 5
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, begin=0, end=max_epochs, eta_min_ratio=0.01, by_epoch=True,
         convert_to_iter_based=True),
]
# No weight decay for norms and position bias tables.
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0), paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(
        rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.))))
auto_scale_lr = dict(enable=False, base_batch_size=8)

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=25),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=DetVisualizationHook))
visualizer = dict(type=DetLocalVisualizer, name='visualizer', vis_backends=[dict(type=LocalVisBackend)])
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
               dist_cfg=dict(backend='nccl'))
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
