# A small DAT for images of 128 x 160 pixels.
small_dat = dict(
    _delete_=True, type='mmattn.DAT', pretrain_img_size=160,
    arch=[
        dict(embed_dims=32, num_heads=2, blocks='LS', window_size=8),
        dict(embed_dims=64, num_heads=4, blocks='LS', window_size=4),
        dict(embed_dims=128, num_heads=8, blocks='LD', window_size=4, offset_groups=2),
        dict(embed_dims=192, num_heads=12, blocks='DD', offset_groups=3, offset_kernel_size=3),
    ])
# The same for images of 320 x 240 pixels.
small_dat_320 = dict(small_dat, pretrain_img_size=320)
# For an FPN with start_level=1: no norm on the map that it does not read.
small_dat_but_first = dict(small_dat, out_norm=(1, 2, 3))
small_dat_320_but_first = dict(small_dat_320, out_norm=(1, 2, 3))
# For a classifier: the last map, without a norm of its own.
small_dat_last = dict(small_dat, out_indices=(3,), out_norm=False)
del small_dat_last['_delete_']
