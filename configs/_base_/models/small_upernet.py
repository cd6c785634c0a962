# UperNet on the four maps of a small backbone.
_base_ = 'mmseg::_base_/models/upernet_swin.py'
norm_cfg = dict(type='BN')
model = dict(
    decode_head=dict(in_channels=[32, 64, 128, 192], channels=64, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=64, norm_cfg=norm_cfg))
