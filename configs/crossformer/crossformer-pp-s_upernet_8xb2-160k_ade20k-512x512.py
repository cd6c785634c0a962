_base_ = [
    '../_base_/mmattn.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.CrossFormerPlusPlus', arch='small', far_groups='map', group_sizes=7,
                  intervals=(8, 4, 2, 1), drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
# Told by name, as the authors do, these norms decay.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={
    'position_bias.net': dict(decay_mult=1.), 'cooling': dict(decay_mult=1.)}))
