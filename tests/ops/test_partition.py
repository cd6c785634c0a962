import pytest
import torch

from mmattn.ops.partition import (
    bias_windows,
    group_views,
    pad_to_multiple,
    relative_bias,
    relative_position_index,
    shifted_window_regions,
    sum_antidiagonals,
    window_merge,
    window_partition,
)


@pytest.mark.parametrize('size', [(1, 1), (7, 7), (13, 29), (14, 5)])
@pytest.mark.parametrize('window', [(7, 7), (3, 5)])
def test_pad_partition_merge_crop_is_exact(size, window):
    x = torch.randn(2, *size, 3)
    padded = pad_to_multiple(x, window)
    windows = window_partition(padded, window)
    assert windows.shape[2] == window[0] * window[1]
    merged = window_merge(windows, window, padded.shape[1:3])
    assert torch.equal(merged[:, :size[0], :size[1]], x)
    assert padded.sum().item() == pytest.approx(x.sum().item(), abs=1e-4)


def test_windows_run_row_by_row():
    x = torch.arange(24).view(1, 4, 6, 1)
    windows = window_partition(x, (2, 3))[0, :, :, 0]
    assert windows.tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11], [12, 13, 14, 18, 19, 20],
                                [15, 16, 17, 21, 22, 23]]


def test_map_that_needs_no_padding_is_not_copied():
    x = torch.randn(1, 6, 4, 2)
    assert pad_to_multiple(x, (3, 2)) is x


def test_regions_separate_what_a_roll_brings_together():
    # 4 x 4 map, windows of 2, rolled by 1: the last row and column came from the first.
    regions = shifted_window_regions((4, 4), (2, 2), 1)
    same = regions[:, :, None] == regions[:, None]
    assert same[0].all()
    assert same[1].tolist() == [[True, False, True, False], [False, True, False, True]] * 2
    assert same[2].tolist() == [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2
    assert torch.equal(same[3], torch.eye(4, dtype=torch.bool))


def test_relative_position_index_by_hand():
    # Tokens (0,0) (0,1) (1,0) (1,1); table of 3 x 3 with (0, 0) in the middle.
    assert relative_position_index((2, 2)).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


@pytest.mark.parametrize('size', [(1, 1), (7, 7), (13, 29), (31, 3), (56, 57)])
@pytest.mark.parametrize('group', [(7, 7), (3, 5), (1, 1)])
@pytest.mark.parametrize('interval', [1, 2, 5])
def test_groups_cover_each_pixel_once(size, group, interval):
    x, copy = torch.randn(2, *size, 3), torch.full((2, *size, 3), torch.nan)
    views, written = group_views(x, group, interval), group_views(copy, group, interval)
    assert sum(view.numel() for view in views) == x.numel()
    for view, target in zip(views, written, strict=True):
        assert view.shape[5] <= group[0]
        assert view.shape[6] <= group[1]
        target.copy_(view)
    assert torch.equal(copy, x)


def test_far_groups_by_hand():
    # a row of 7 tokens in groups of 2, every second token: squares of 4 tokens, then 3 left: 4 6 and 5
    views = group_views(torch.arange(7).view(1, 1, 7, 1), (1, 2), 2)
    assert [view.flatten(0, 4).flatten(1).tolist() for view in views] == [[[0, 2], [1, 3]], [[4, 6]], [[5]]]


def test_groups_of_a_part_of_a_map():
    x = torch.arange(60).view(1, 6, 10, 1)[:, 2:5, 3:9].transpose(1, 2)
    assert group_views(x, (3, 2))[0][0, 1, 0, 0, 0, :, :, 0].tolist() == [[26, 36], [27, 37], [28, 38]]


def test_relative_bias_by_hand():
    table = torch.arange(9.).view(1, 3, 3)
    assert relative_bias(table, (2, 2))[0].tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    rectangle = relative_bias(torch.arange(15.).view(1, 3, 5), (2, 3))[0]
    assert rectangle[1].tolist() == [8, 7, 6, 3, 2, 1]      # query (0, 1), keys row by row


def test_windows_of_a_bias_count_keys_from_the_last():
    table = torch.randn(2, 5, 7)
    windows = bias_windows(table, (3, 4))
    assert windows.shape == (2, 3, 4, 3, 4)
    assert windows.data_ptr() == table.data_ptr()
    assert torch.equal(windows.flatten(3).flip(3).flatten(1, 2), relative_bias(table, (3, 4)))


def test_sum_of_antidiagonals_by_hand():
    assert sum_antidiagonals(torch.tensor([[1, 2, 3], [10, 20, 30]])).tolist() == [1, 12, 23, 30]
    assert sum_antidiagonals(torch.tensor([[1], [2]])).tolist() == [1, 2]
