# A small BiFormer for images of 128 x 160 pixels.
small_biformer = dict(
    _delete_=True, type='mmattn.BiFormer', num_windows=4,
    arch=[
        dict(embed_dims=32, num_heads=2, blocks='RR', topk=1),
        dict(embed_dims=64, num_heads=4, blocks='RR', topk=2),
        dict(embed_dims=128, num_heads=8, blocks='RR', topk=4),
        dict(embed_dims=192, num_heads=12, blocks='EE'),
    ])
