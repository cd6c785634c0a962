_base_ = [
    '../_base_/mmattn.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
# Told by name, as the authors do, these norms decay.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={
    'position_bias.net': dict(decay_mult=1.), 'cooling': dict(decay_mult=1.)}))
