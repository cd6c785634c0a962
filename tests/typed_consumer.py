"""What a program in types makes of the package; `mypy --strict` reads it, nothing runs it.

The ignored error must be one: where the package's types are not seen, mypy calls the comment unused.
"""
import torch
from torch import Tensor

from mmattn.backbones import DAT
from mmattn.layers import DeformableAttention
from mmattn.ops.attention import attention

layer: DeformableAttention = DeformableAttention(96, 3, offset_groups=3)
y: Tensor = layer(torch.rand(2, 96, 20, 31))
DeformableAttention('96', 3)  # type: ignore[arg-type]

q = torch.rand(1, 3, 5, 7)
mixed: Tensor = attention(q, q, q)
attention(q, q, 'q')  # type: ignore[arg-type]

backbone: DAT = DAT(arch='tiny', out_indices=(1, 2, 3))
maps: tuple[Tensor, ...] = tuple(backbone(torch.rand(1, 3, 64, 96)))
