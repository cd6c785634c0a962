"""Pure functions on tensors: no parameters, no registry, nothing but torch and einops."""
