# A small DAT for images of 128 x 160 pixels.
small_dat = dict(
    _delete_=True, type='mmattn.DAT', pretrain_img_size=160,
    arch=[
        dict(embed_dims=32, num_heads=2, blocks='LS', window_size=8),
        dict(embed_dims=64, num_heads=4, blocks='LS', window_size=4),
        dict(embed_dims=128, num_heads=8, blocks='LD', window_size=4, offset_groups=2),
        dict(embed_dims=192, num_heads=12, blocks='DD', offset_groups=3, offset_kernel_size=3),
    ])
