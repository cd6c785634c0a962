"""DAT, CrossFormer, BiFormer and DeBiFormer attention for dense prediction with OpenMMLab.

Importing this module needs nothing but Python; a name is loaded when it is first asked for. `mmattn.ops` and
`mmattn.layers` need torch and einops; everything that plugs into a detector or a segmentor needs MMEngine (see
`mmattn.openmmlab`).
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmattn import backbones, inference, layers, necks, ops, visualization
    from mmattn.backbones import (
        DAT,
        AttentionPyramid,
        BiFormer,
        CrossFormer,
        CrossFormerPlusPlus,
        DATPlusPlus,
        DeBiFormer,
    )
    from mmattn.inference import Inferencer, predict
    from mmattn.visualization import record_attention

__version__ = '0.1.0'
__all__ = ['DAT', 'AttentionPyramid', 'BiFormer', 'CrossFormer', 'CrossFormerPlusPlus', 'DATPlusPlus', 'DeBiFormer',
           'Inferencer', 'backbones', 'inference', 'layers', 'necks', 'ops', 'predict', 'record_attention',
           'visualization']

_ROOMS = {'backbones': ('DAT', 'AttentionPyramid', 'BiFormer', 'CrossFormer', 'CrossFormerPlusPlus', 'DATPlusPlus',
                        'DeBiFormer'),
          'inference': ('Inferencer', 'predict'), 'visualization': ('record_attention',)}


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f'mmattn.{room}'), name)
    if name in __all__:
        return import_module(f'mmattn.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
