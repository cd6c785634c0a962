# No weight decay for norms and position bias tables.
no_decay = dict(norm_decay_mult=0., custom_keys=dict(
    rpe_table=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.)))
# The same but in heads, whose batch norms decay where the authors tell norms by their names.
no_decay_but_heads = dict(no_decay, custom_keys=dict(
    no_decay['custom_keys'], decode_head=dict(decay_mult=1.), auxiliary_head=dict(decay_mult=1.)))
# Of a classifier: nothing with one dimension decays, norms and biases, and no table.
no_decay_of_vectors = dict(flat_decay_mult=0., custom_keys=no_decay['custom_keys'])
