from torch import Tensor, nn

from mmattn.checks import check_rate


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): zero a whole sample of a residual branch, rescale the others.

    In training: y = x m / (1 - rate), with m = 1 for a sample that is kept and 0 for one that is dropped.

    Args:
        rate: probability of dropping, 0 <= rate < 1. Nothing happens outside training.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        check_rate('rate', rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)     # one factor per sample: a single pass over the map

    def extra_repr(self) -> str:
        return f'rate={self.rate}'
