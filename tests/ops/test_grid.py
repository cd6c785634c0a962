from unittest import mock

import pytest
import torch

from mmattn.ops import reference
from mmattn.ops.grid import key_grid, query_grid, sample, spans


def test_grids_of_both_conventions_by_hand():
    assert key_grid((1, 4), 'dat')[0, :, 1].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert query_grid((1, 4), 'dat')[0, :, 1].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert key_grid((1, 5), 'dat_pp')[0, :, 1].tolist() == [-0.75, -0.25, 0.25, 0.75, 1.25]
    assert query_grid((1, 5), 'dat_pp')[0, :, 1].tolist() == [-1, -0.5, 0, 0.5, 1]


def test_points_are_y_then_x():
    grid = key_grid((2, 3), 'dat')
    assert grid.shape == (2, 3, 2)
    assert grid[0, 2].tolist() == pytest.approx([-0.5, 2 / 3])


@pytest.mark.parametrize('convention', ['dat', 'dat_pp'])
@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 1)])
def test_maps_of_one_pixel_row_or_column_have_finite_points(size, convention):
    assert min(spans(size, convention)) >= 1
    for grid in (key_grid(size, convention), query_grid(size, convention)):
        assert grid.shape == (*size, 2)
        assert grid.isfinite().all()


def test_unknown_convention_is_named():
    with pytest.raises(ValueError, match="convention='swin' is unknown; choose one of dat, dat_pp"):
        key_grid((3, 3), 'swin')


@pytest.fixture(params=[False, True], ids=['fast', 'deterministic'])
def algorithms(request):
    if request.param:
        request.getfixturevalue('deterministic')


@pytest.mark.usefixtures('algorithms')
def test_sample_reads_pixel_centres_and_fades_to_zero_outside():
    x = torch.tensor([[1., 2., 4.], [8., 16., 32.]])[None, None]
    points = torch.tensor([(-1., -1.), (1., 1.), (-1., 0.), (0., -0.5), (1., 1.5), (3., 0.)])[None, None]
    assert sample(x, points)[0, 0, 0].tolist() == [1, 32, 2, (1 + 2 + 8 + 16) / 4, 16, 0]


@pytest.mark.usefixtures('algorithms')
@pytest.mark.parametrize('size', [(1, 1), (1, 5), (7, 3)])
def test_sample_equals_the_sum_over_all_pixels(size):
    x, points = torch.randn(2, 3, *size, dtype=torch.double), torch.rand(2, 5, 4, 2, dtype=torch.double) * 2.6 - 1.3
    torch.testing.assert_close(sample(x, points), reference.bilinear(x, points))


@pytest.mark.parametrize('size', [(1, 1), (1, 5), (7, 3)])
def test_deterministic_samples_have_the_same_gradients(size):
    x, grid = torch.randn(2, 3, *size, dtype=torch.double), key_grid((4, 5), 'dat_pp').double()
    points = torch.cat([(torch.rand(2, 4, 5, 2, dtype=torch.double) * 2.6 - 1.3), grid.expand(2, -1, -1, -1)], 1)

    def gradients():
        inputs = x.requires_grad_(), points.requires_grad_()
        return torch.autograd.grad(sample(*inputs).square().sum(), inputs)
    fast = gradients()
    with mock.patch('torch.are_deterministic_algorithms_enabled', return_value=True):
        torch.testing.assert_close(gradients(), fast)


@pytest.mark.usefixtures('algorithms')
def test_sample_of_low_precision_maps_keeps_coordinates_in_float32():
    x = torch.randn(1, 2, 4, 334)
    points = torch.rand(1, 3, 5, 2) * 2 - 1
    out = sample(x.bfloat16(), points)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, sample(x.bfloat16().float(), points).bfloat16())
