from torch.nn import functional as F


def split_linear(linear, x, parts):
    """The output of a linear map in parts of its channels, each computed on its own.

    One large product cut afterwards is put together again in the backward pass, and copying it costs more than the
    smaller products do.

    Args:
        linear (nn.Linear): from C channels to the sum of `parts`.
        x (Tensor): (..., C).
        parts (Sequence[int]): channels of each part.

    Returns:
        list[Tensor]: (..., channels of the part) each.
    """
    biases = [None] * len(parts) if linear.bias is None else linear.bias.split(parts)
    return [F.linear(x, weight, bias) for weight, bias in zip(linear.weight.split(parts), biases)]
