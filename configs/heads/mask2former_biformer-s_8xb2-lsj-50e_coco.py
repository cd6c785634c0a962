_base_ = 'mask2former_dat-t_8xb2-lsj-50e_coco.py'
model = dict(
    backbone=dict(_delete_=True, type='mmattn.BiFormer', arch='small', num_windows=16, drop_path_rate=0.2,
                  norm_eval=True),
    panoptic_head=dict(in_channels=[64, 128, 256, 512]))
