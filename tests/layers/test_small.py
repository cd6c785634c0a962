import pytest
import torch

from mmattn.layers import MLP, DropPath, LayerNorm2d


def test_layer_norm_normalises_channels_of_each_pixel():
    norm = LayerNorm2d(5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 7)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(norm(x), expected)


def test_mlp_works_on_each_pixel():
    mlp = MLP(6, mlp_ratio=2.5)
    assert mlp.fc1.out_features == 15
    x = torch.randn(2, 6, 3, 5)
    pixel = mlp.fc2(torch.nn.functional.gelu(mlp.fc1(x[1, :, 2, 3])))
    torch.testing.assert_close(mlp(x)[1, :, 2, 3], pixel)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    drop.eval()
    assert torch.equal(drop(out), out)


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_drop_path_rate_is_checked(rate):
    with pytest.raises(ValueError, match=f'drop path rate {rate} is outside'):
        DropPath(rate)
