_base_ = 'debiformer-t_8xb256_in1k.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
