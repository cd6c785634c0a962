from torch import nn

from mmattn.checks import check_rate


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): zero a whole sample of a residual branch, rescale the others.

    Args:
        rate (float): probability of dropping, 0 <= rate < 1. Nothing happens outside training.
    """

    def __init__(self, rate=0.0):
        super().__init__()
        check_rate('rate', rate)
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)

    def extra_repr(self):
        return f'rate={self.rate}'
