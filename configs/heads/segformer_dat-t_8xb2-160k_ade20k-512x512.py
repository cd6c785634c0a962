# The head of SegFormer with DAT-T: ours, no published figure.
_base_ = ['../_base_/mmattn.py', 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
model = dict(
    backbone=dict(_delete_=True, type='mmattn.DAT', arch='tiny', drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(
    _delete_=True, rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.),
    head=dict(lr_mult=10.))))
