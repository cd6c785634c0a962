# An assumption, the authors released no config of this model: the recipe of CrossFormer-B.
_base_ = 'crossformer-pp-s_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
