# Semantic FPN for the 150 classes of ADE20K.
_base_ = 'mmseg::_base_/models/fpn_r50.py'
model = dict(
    data_preprocessor=dict(size=(512, 512)), pretrained=None, backbone=dict(_delete_=True),
    decode_head=dict(num_classes=150))
