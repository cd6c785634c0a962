_base_ = [
    '../_base_/mmattn.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k_multiples_of_32.py',
    '../_base_/schedules/adamw_160k_ade20k.py', 'mmseg::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(type='mmattn.DeBiFormer', arch='base', num_windows=8, drop_path_rate=0.4),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=3001),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=160001),
]
optim_wrapper = dict(
    type='mmattn.AmpOptimWrapper', loss_scale='dynamic',
    # told by name, as the authors do, the batch norms of these parts decay
    paramwise_cfg=dict(custom_keys={
        'backbone.stem': dict(decay_mult=1.), 'backbone.downsamples': dict(decay_mult=1.)}))
# with a flip
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        {{_base_.tta_scales}},
        [dict(type='ResizeToMultiple', size_divisor=32)],
        {{_base_.tta_flips}},
        [dict(type='LoadAnnotations', reduce_zero_label=True)],
        [dict(type='PackSegInputs')],
    ])
]
