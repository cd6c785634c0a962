_base_ = 'deformable-detr_dat-t_16xb2-50e_coco.py'
model = dict(backbone=dict(
    _delete_=True, type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2, out_indices=(1, 2, 3)))
