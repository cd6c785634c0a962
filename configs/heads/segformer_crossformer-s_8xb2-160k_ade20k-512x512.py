_base_ = 'segformer_dat-t_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(
    _delete_=True, type='mmattn.CrossFormer', arch='small', drop_path_rate=0.2))
