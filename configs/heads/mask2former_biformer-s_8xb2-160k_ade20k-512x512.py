_base_ = 'mask2former_dat-t_8xb2-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(_delete_=True, type='mmattn.BiFormer', arch='small', num_windows=8, drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]))
sync_bn = 'torch'     # the backbone's batch norms, too, see all images of a step
