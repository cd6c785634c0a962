# UperNet with any attention in a small pyramid, trained from scratch on generated scenes; for tools/ablate.py.
_base_ = 'upernet_dat_scenes.py'
model = dict(
    backbone=dict(_delete_=True, type='mmattn.AttentionPyramid', attention=dict(type='ShiftedWindowAttention'),
                  embed_dims=(48, 96, 192, 384), depths=(2, 2, 2, 2)),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192))
