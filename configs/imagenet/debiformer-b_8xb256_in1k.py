_base_ = 'debiformer-t_8xb256_in1k.py'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.4),
    neck=dict(in_channels=768),
    head=dict(in_channels=768))
