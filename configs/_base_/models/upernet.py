# UperNet for the 150 classes of ADE20K.
_base_ = 'mmseg::_base_/models/upernet_swin.py'
model = dict(
    data_preprocessor=dict(size=(512, 512)), backbone=dict(_delete_=True), decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))
