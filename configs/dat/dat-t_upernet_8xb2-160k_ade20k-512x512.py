_base_ = [
    '../_base_/mmattn.py', 'mmseg::_base_/models/upernet_swin.py', 'mmseg::_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    # test images have any size, and the authors' patches leave out what does not fill one
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', drop_path_rate=0.3, pad_patches=False),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150))
# No decay for norms and position bias tables.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(
    rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.))))
train_dataloader = dict(batch_size=2)
