# The layout of Swin-T, as in the authors' first code.
_base_ = 'biformer-t_8xb128_in1k.py'
model = dict(
    backbone=dict(arch='stl-legacy', drop_path_rate=0.1),
    neck=dict(in_channels=768),
    head=dict(in_channels=768))
