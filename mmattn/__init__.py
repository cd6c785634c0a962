"""DAT, CrossFormer and BiFormer attention for dense prediction with OpenMMLab.

Importing this module needs nothing but Python. `mmattn.ops` and `mmattn.layers` need torch and einops;
everything that plugs into a detector or a segmentor needs MMEngine (see `mmattn.openmmlab`).
"""

__version__ = '0.1.0'
