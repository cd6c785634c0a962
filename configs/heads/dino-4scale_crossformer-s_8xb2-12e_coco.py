_base_ = 'dino-4scale_dat-t_8xb2-12e_coco.py'
model = dict(backbone=dict(
    _delete_=True, type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2, out_indices=(1, 2, 3)))
