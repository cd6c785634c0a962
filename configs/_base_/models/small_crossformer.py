# A small CrossFormer for images of 128 x 160 pixels.
small_crossformer = dict(
    _delete_=True, type='mmattn.CrossFormer',
    arch=[
        dict(embed_dims=32, num_heads=2, blocks='SL', group_size=4, interval=8),
        dict(embed_dims=64, num_heads=4, blocks='SL', group_size=4, interval=4),
        dict(embed_dims=128, num_heads=8, blocks='SL', group_size=4, interval=2),
        dict(embed_dims=192, num_heads=12, blocks='SL', group_size=4, interval=1),
    ])
