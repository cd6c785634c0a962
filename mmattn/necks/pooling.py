from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmattn.backbones.arguments import argument_names, refuse_unknown
from mmattn.checks import check_at_least, check_choice
from mmattn.layers import LayerNorm2d
from mmattn.necks.attention import check_maps
from mmattn.registry import MODELS

NORMS = dict(layer=LayerNorm2d, batch=nn.BatchNorm2d)


@MODELS.register_module()
class NormalizedPooling(BaseModule):
    """A norm, then the mean over the map: what the published classifiers have between backbone and linear head.

    The neck of an `ImageClassifier` of mmpretrain, whose backbone gives one map without an output norm of its own.

    Args:
        in_channels: channels of the map.
        norm: 'layer', over the channels of each place, as in DAT and CrossFormer; 'batch' as in BiFormer.
        init_cfg: initialization as MMEngine describes it.

    Shapes:
        one (B, in_channels, H, W) -> one (B, in_channels).

    Raises:
        ArgumentError: an unknown norm; other maps than one with `in_channels`.
    """

    def __init__(self, in_channels: int, norm: str = 'layer', *,
                 init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, **unknown: Any) -> None:
        super().__init__(init_cfg)
        refuse_unknown(type(self).__name__, unknown, argument_names(type(self), NormalizedPooling))
        check_at_least('in_channels', in_channels, 1)
        check_choice('norm', norm, tuple(NORMS))
        self.in_channels = (in_channels,)
        self.norm = NORMS[norm](in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        check_maps(maps, self.in_channels, self.norm.weight.dtype)
        return self.norm(maps[0]).mean((2, 3)),
