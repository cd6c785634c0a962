# An assumption, as that of DAT-T; stochastic depth of DAT++.
_base_ = 'dat-t_fpn_8xb4-40k_ade20k-512x512.py'
model = dict(backbone=dict(arch='small'))
