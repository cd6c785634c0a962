_base_ = 'mask2former_dat-t_8xb2-lsj-50e_coco.py'
model = dict(backbone=dict(
    _delete_=True, type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2))
