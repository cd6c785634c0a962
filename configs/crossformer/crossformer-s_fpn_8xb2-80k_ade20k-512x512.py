_base_ = [
    '../_base_/mmattn.py', 'mmseg::_base_/models/fpn_r50.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
    decode_head=dict(num_classes=150))
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
# 80 000 iterations, polynomial decay without warm-up.
train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=80000)]
default_hooks = dict(checkpoint=dict(interval=8000))
train_dataloader = dict(batch_size=2)
