# The same as in the authors' code with channels first, whose last stage differs.
_base_ = 'biformer-stl_8xb128_in1k.py'
model = dict(backbone=dict(arch='stl'))
