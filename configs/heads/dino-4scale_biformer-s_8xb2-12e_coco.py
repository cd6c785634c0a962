_base_ = 'dino-4scale_dat-t_8xb2-12e_coco.py'
model = dict(
    backbone=dict(_delete_=True, type='mmattn.BiFormer', arch='small', num_windows=16, drop_path_rate=0.2,
                  norm_eval=True, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 256, 512]))
