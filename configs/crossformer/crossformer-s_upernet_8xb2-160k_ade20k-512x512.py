_base_ = [
    '../_base_/mmattn.py', 'mmseg::_base_/models/upernet_swin.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
train_dataloader = dict(batch_size=2)
