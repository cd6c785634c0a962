from torch.nn import functional as F


def split_linear(linear, x, parts):
    """The output of a linear map in equal parts of its channels, each computed on its own.

    One large product cut afterwards is put together again in the backward pass, and copying it costs more than the
    smaller products do.

    Args:
        linear (nn.Linear): C -> parts * C'.
        x (Tensor): (..., C).
        parts (int): how many.

    Returns:
        list[Tensor]: (..., C') each.
    """
    biases = [None] * parts if linear.bias is None else linear.bias.chunk(parts)
    return [F.linear(x, weight, bias) for weight, bias in zip(linear.weight.chunk(parts), biases)]
