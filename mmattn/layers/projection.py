from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def split_linear(linear: nn.Linear, x: Tensor, parts: Sequence[int]) -> list[Tensor]:
    """The output of a linear map in parts of its channels, each computed on its own.

    One large product cut afterwards is put together again in the backward pass, and copying it costs more than the
    smaller products do.

    Args:
        linear: from C channels to the sum of `parts`.
        x: (..., C).
        parts: channels of each part.

    Returns:
        (..., channels of the part) each.
    """
    sizes = list(parts)
    biases = [None] * len(sizes) if linear.bias is None else linear.bias.split(sizes)
    return [F.linear(x, weight, bias) for weight, bias in zip(linear.weight.split(sizes), biases)]
