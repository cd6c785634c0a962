_base_ = 'atss_dat-t_fpn_1x_coco.py'
model = dict(backbone=dict(
    _delete_=True, type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2, out_indices=(1, 2, 3)))
