# A Swin as large as the other small models: its layout with their channels.
small_swin = dict(
    _delete_=True, type='mmattn.AttentionPyramid', attention=dict(type='ShiftedWindowAttention'),
    embed_dims=(32, 64, 128, 192), depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 12))
small_swin_but_first = dict(small_swin, out_norm=(1, 2, 3))
