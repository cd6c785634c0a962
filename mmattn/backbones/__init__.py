"""Pyramids of attention stages, registered as `mmattn.…`."""
from mmattn.backbones.dat import DAT

__all__ = ['DAT']
