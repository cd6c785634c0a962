from torch import nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Two linear maps with GELU between, on every pixel of a (B, C, H, W) map.

    Args:
        embed_dims (int): channels C in and out.
        mlp_ratio (float): hidden channels / C.
        drop_rate (float): dropout after each linear map.
    """

    def __init__(self, embed_dims, mlp_ratio=4.0, drop_rate=0.0):
        super().__init__()
        hidden = int(embed_dims * mlp_ratio)
        self.fc1 = nn.Linear(embed_dims, hidden)
        self.fc2 = nn.Linear(hidden, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x):
        x = self.drop(self.hidden(self.fc1(x.permute(0, 2, 3, 1))))
        return self.drop(self.fc2(x)).permute(0, 3, 1, 2)

    def hidden(self, x):
        """What happens between the linear maps: (B, H, W, hidden) -> the same."""
        return F.gelu(x)


class DepthwiseMLP(MLP):
    """MLP with a 3 x 3 depth-wise convolution before GELU (DAT++, section 3.4).

    Args:
        embed_dims, mlp_ratio, drop_rate: as in `MLP`.
        residual (bool): add the convolution to what it reads, as DAT++ does.
    """

    def __init__(self, embed_dims, mlp_ratio=4.0, drop_rate=0.0, residual=True):
        super().__init__(embed_dims, mlp_ratio, drop_rate)
        hidden = self.fc1.out_features
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.residual = residual

    def hidden(self, x):
        y = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return F.gelu(x + y if self.residual else y)
