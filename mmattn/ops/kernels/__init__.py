"""Fused Triton kernels of the ops, a module for each. They import Triton, so nothing imports them before it is known to
be there (see `mmattn.ops.fused`)."""
