# A small DeBiFormer for images of 128 x 160 pixels.
small_debiformer = dict(
    _delete_=True, type='mmattn.DeBiFormer', num_windows=4,
    arch=[
        dict(embed_dims=32, num_heads=2, blocks='R', topk=1, agent_topk=2, stride=4, offset_kernel_size=5,
             table_size=32),
        dict(embed_dims=64, num_heads=4, blocks='R', topk=2, agent_topk=4, stride=2, offset_groups=2, table_size=16),
        dict(embed_dims=128, num_heads=8, blocks='R', topk=4, agent_topk=8, offset_groups=2, table_size=8),
        dict(embed_dims=192, num_heads=12, blocks='D', agent_topk=16, offset_groups=3, table_size=4),
    ])
# The same for an FPN with start_level=1: no norm on the map that it does not read.
small_debiformer_but_first = dict(small_debiformer, out_norm=(1, 2, 3))
