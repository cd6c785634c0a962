from torch import nn


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
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x):
        x = self.drop(self.act(self.fc1(x.permute(0, 2, 3, 1))))
        return self.drop(self.fc2(x)).permute(0, 3, 1, 2)
