# A small BiFormer for images of 128 x 160 pixels.
small_biformer = dict(
    _delete_=True, type='mmattn.BiFormer', num_windows=4,
    arch=[
        dict(embed_dims=32, num_heads=2, blocks='RR', topk=1),
        dict(embed_dims=64, num_heads=4, blocks='RR', topk=2),
        dict(embed_dims=128, num_heads=8, blocks='RR', topk=4),
        dict(embed_dims=192, num_heads=12, blocks='EE'),
    ])
# The same for an FPN with start_level=1: no norm on the map that it does not read.
small_biformer_but_first = dict(small_biformer, out_norm=(1, 2, 3))
