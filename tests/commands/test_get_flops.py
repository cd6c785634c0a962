
import pytest
import torch
from mmengine.config import Config

from mmattn.config import read_config
from mmattn.engine.building import build_model
from mmattn.layers import DeformableAttention, NeighborhoodAttention
from mmattn.measuring.flops import count_call, count_model
from tests.conftest import ROOT

RETINANET, CASCADE = 'configs/dat/retinanet_{}_fpn_1x_coco.py', 'configs/dat/cascade-mask-rcnn_dat-t_fpn_1x_coco.py'


def config(name):
    return Config.fromfile(ROOT / name)


@pytest.mark.parametrize(('name', 'published'), [
    (RETINANET.format('dat-t'), 4.6), ('configs/biformer/retinanet_biformer-s_fpn_1x_coco.py', 4.5),
    ('configs/crossformer/retinanet_crossformer-s_fpn_1x_coco.py', 4.9), (RETINANET.format('dat-pp-t'), 4.3)])
def test_backbones_cost_what_the_papers_say(name, published):
    cfg = config(name)
    if 'biformer' in name:
        cfg.model.backbone.num_windows = 7
    assert count_model(cfg, (224, 224))['backbone'].total / 1e9 == pytest.approx(published, abs=0.1)


def count(layer, *shape):
    return count_call(layer.eval(), torch.zeros(*shape))[1]


def test_a_layer_costs_what_its_formula_says():
    """Hand-computed: projections, depth-wise and pointwise convolution of offsets, two products, samples."""
    dims, heads, groups, side = 12, 3, 3, 5
    layer = DeformableAttention(dims, heads, offset_groups=groups, offset_kernel_size=3, table_size=4)
    found = count(layer, 1, dims, side, side)
    tokens = side ** 2
    products = 2 * tokens ** 2 * dims
    sampling = 4 * (tokens * dims + heads * tokens ** 2)            # values, and the bias of each query and key
    offsets = tokens * dims * 3 ** 2 + groups * tokens * (dims // groups) * 2
    assert (found.attention, found.sampling) == (products, sampling)
    assert found.total == products + sampling + offsets + 4 * tokens * dims ** 2


@pytest.mark.parametrize(('size', 'keys'), [((20, 23), 9), ((2, 11), 6)])
def test_neighbourhoods_count_the_keys_of_a_window_and_not_of_a_tile(size, keys):
    found = count(NeighborhoodAttention(8, 2, kernel_size=3, pad_small=False), 3, 8, *size)
    tokens = 3 * size[0] * size[1]
    assert found.attention == 2 * tokens * 8 * keys
    assert found.total == found.attention + 4 * tokens * 8 ** 2


def test_two_stages_have_1000_boxes_and_100_masks_in_every_head():
    counts = count_model(config(CASCADE), (64, 64))
    box = 1000 * (4 * 9 * 256 ** 2 * 49 + 49 * 256 * 1024 + 1024 * (81 + 320))
    mask = 100 * (4 * 9 * 256 ** 2 * 14 ** 2 + 4 * 256 ** 2 * 14 ** 2 + 80 * 256 * 28 ** 2)
    assert counts['roi_head'].total == 3 * (box + mask)
    assert list(counts) == ['backbone', 'neck', 'rpn_head', 'roi_head']


def test_a_transformer_is_counted_layer_by_layer():
    """Hand-computed for Deformable DETR with one layer of each kind."""
    cfg = read_config('deformable-detr_crossformer-s_16xb2-50e_coco')
    for part in (cfg.model.encoder, cfg.model.decoder):
        part.num_layers = 1
    cfg.model.num_queries = queries = 7
    counts = count_model(cfg, (64, 96))
    tokens, dims, hidden = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 256, 1024
    points = 8 * 4 * 4      # of a query: heads, levels, points of each
    products = 2 * queries ** 2 * dims                                       # of the attention among queries
    sampling = 4 * points * (dims // 8) * (tokens + queries)
    encoder = tokens * (2 * dims ** 2 + 3 * points * dims + 2 * dims * hidden)
    decoder = (queries * (4 * dims ** 2 + dims ** 2 + 3 * points * dims + 2 * dims * hidden + dims * 2)
               + tokens * dims ** 2)
    heads = queries * (dims * 80 + 2 * dims ** 2 + dims * 4)
    assert list(counts) == ['backbone', 'neck', 'transformer']
    assert counts['transformer'].sampling == sampling
    assert counts['transformer'].total == encoder + decoder + heads + products + sampling
    assert products <= counts['transformer'].attention < 0.1 * counts['transformer'].total


@pytest.mark.parametrize(('name', 'part'), [
    ('rtmdet-s_dat-t_8xb32-300e_coco', 'bbox_head'),        # shares parameters
    ('mask2former_dat-t_8xb2-160k_ade20k-512x512', 'decode_head'),
    pytest.param('mask2former_dat-t_8xb2-lsj-50e_coco', 'panoptic_head', marks=pytest.mark.slow)])
def test_heads_that_share_parameters_or_ask_for_values(name, part):
    cfg = read_config(name)
    counts = count_model(cfg, (64, 96))
    assert list(counts)[-1] == part
    assert counts[part].total > 0
    with torch.device('meta'):
        model = build_model(cfg)
    assert sum(count.parameters for count in counts.values()) == sum(p.numel() for p in model.parameters())


def test_values_do_not_matter_only_shapes_do():
    """The same count as on real tensors."""
    cfg = config('configs/demo/upernet_crossformer_scenes.py')
    cfg.model.backbone.cut_padding = True
    model = build_model(cfg).eval()
    with torch.no_grad():
        maps, found = count_call(model.backbone, torch.rand(1, 3, 61, 90))
        found += count_call(model.decode_head, maps)[1]
    counts = count_model(cfg, (61, 90))
    assert (counts['backbone'] + counts['decode_head']).total == found.total > 0
    assert counts['auxiliary_head'].parameters > 0 == counts['auxiliary_head'].total


def test_the_command_prints_parts_and_a_total(run):
    done = run('tools/get_flops.py', 'configs/demo/retinanet_biformer_scenes.py', '--shape', 64, 96)
    lines = [line for line in done.stdout.splitlines() if line.startswith('|')]
    assert [line.split(' | ')[0] for line in lines] == ['| part', '|---|---|---|---|---|---|', '| backbone', '| neck',
                                                       '| bbox_head', '| total']
    assert '1 x 3 x 64 x 96' in done.stdout


def test_wrong_uses_are_one_line(one_line, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("default_scope = 'mmdet'\nmodel = dict(type='mmengine.BaseDataPreprocessor')\n")
    for args, message in ((('configs/demo/upernet_dat_scenes.py', '--shape', 0, 64), '--shape 0 64: both sides must'),
                          ((path,), 'BaseDataPreprocessor is not a model with a backbone'),
                          (('configs/none.py',), 'config not found')):
        assert message in one_line('tools/get_flops.py', *args)
