import json

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmattn.engine.building import build_model
from mmattn.measuring.latency import read_image
from mmattn.measuring.timing import memory
from tests.conftest import ROOT

TOOL = ROOT / 'tools/benchmark.py'
DET, SEG = ROOT / 'configs/demo/retinanet_biformer_scenes.py', ROOT / 'configs/demo/upernet_dat_scenes.py'
FEW = ('--repeat', 1, '--iterations', 1)


@pytest.mark.slow
def test_a_layer_measured_in_every_way_it_can_be(run):
    rows = ('reference', 'mmattn', 'dense', 'separable', 'triton', 'no-bias', 'bf16')
    done = run(TOOL, 'dat', '--layer', '--dim', 32, '--heads', 4, '--groups', 2, '--size', 9, 13, '--json',
               '--rows', *rows, *FEW)
    table = {row['row']: row for row in json.loads(done.stdout)['table']}
    assert set(table) == set(rows)
    assert 'cannot run: Triton kernels run on CUDA; q is on cpu' in table.pop('triton')['refused']
    assert all(row['forward_seconds'] > 0 and row['forward_bytes'] >= 0 for row in table.values())
    assert table['reference']['difference'] == 0
    assert all(table[name]['difference'] < 1e-5 for name in ('mmattn', 'dense', 'separable'))
    assert 1e-4 < table['bf16']['difference'] < 3e-2
    assert 'difference' not in table['no-bias']


@pytest.mark.slow
def test_a_backbone_as_a_table(run):
    done = run(TOOL, 'dat_pp', '--arch', 'tiny', '--size', 64, 97, *FEW)
    lines = done.stdout.splitlines()
    assert lines[0].startswith('dat_pp tiny, 1 x 64 x 97, cpu, ')
    assert lines[1] == '| row | forward | ratio | added memory | differs by |'
    assert [line.split('|')[1].strip() for line in lines[3:]] == ['reference', 'mmattn']
    assert all(line.count('|') == lines[1].count('|') for line in lines[2:])


@pytest.mark.slow
def test_routing_attention_beside_its_formula(run):
    done = run(TOOL, 'biformer', '--layer', '--dim', 16, '--heads', 2, '--windows', 3, '--topk', 2, '--size', 8, 11,
               '--train', '--json', *FEW)
    reference, ours = json.loads(done.stdout)['table']
    assert [reference['row'], ours['row']] == ['reference', 'mmattn']
    assert 0 < ours['difference'] < 1e-5
    assert ours['train_seconds'] > 0
    assert ours['train_bytes'] >= 0


@pytest.mark.slow
def test_crossformer_beside_its_formula_and_its_products(run):
    done = run(TOOL, 'crossformer', '--arch', 'small', '--size', 64, 97, '--train', '--json', '--rows', 'reference',
               'mmattn', 'products', *FEW)
    ours, products = json.loads(done.stdout)['table'][1:]
    assert 0 < ours['difference'] < 1e-5
    assert products['forward_seconds'] > 0
    assert products['train_seconds'] > 0
    assert products['train_bytes'] is None
    assert 'difference' not in products
    done = run(TOOL, 'crossformer', '--layer', '--dim', 32, '--heads', 2, '--interval', 2, '--size', 15, 9, *FEW)
    assert 'groups of 7 x 7, interval 2' in done.stdout


def test_what_is_wrong_is_named(run, one_line):
    assert 'no-bias is a row for --layer' in one_line(TOOL, 'dat', '--arch', 'tiny', '--rows', 'no-bias')
    assert one_line(TOOL, 'dat') == 'error: dat: --layer or --arch must say what of the family to measure'
    assert 'checkpoint is for a config, and dat is a family' in one_line(TOOL, 'dat', 'x.pth', '--layer')
    assert '--image is for a config, and dat is a family' in one_line(TOOL, 'dat', '--layer', '--image', 'x')
    assert f'--with-cp is for a layer or backbone, and {SEG} is a config' in one_line(TOOL, SEG, '--with-cp')
    assert one_line(TOOL, 'dat', '--layer', '--size', 0, 5) == (
        'error: --size, --batch, --repeat and --iterations must be at least 1')
    done = run(TOOL, 'dat', '--layer', '--dim', 10, '--heads', 3, '--size', 5, 5, '--rows', 'mmattn', *FEW)
    assert 'ArgumentError: embed_dims=10 is not divisible by num_heads=3' in done.stdout


def test_a_whole_model(run, write_scenes):
    """A segmentor, whose step has no detections, in the words of a table."""
    picture = next((write_scenes(training=0, validation=1) / 'images/validation').glob('*.png'))
    done = run(TOOL, SEG, '--size', 64, 97, '--batch', 2, '--image', picture, *FEW)
    title, head, _, row = done.stdout.splitlines()
    assert title == f'{SEG}, 2 x 3 x 64 x 97, cpu, 1 threads, medians of 1 x 1'
    assert head == '| a step of the test | images a second | added memory | detections |'
    seconds, rate, _, found = row.strip('| ').split(' | ')
    assert float(seconds.removesuffix(' s')) * float(rate) == pytest.approx(2, rel=0.05)
    assert found == '0'


@pytest.mark.slow
def test_a_whole_detector_with_a_checkpoint_finds_what_it_finds(run, tmp_path):
    torch.save(dict(state_dict=build_model(Config.fromfile(DET)).state_dict()), tmp_path / 'random.pth')
    done = run(TOOL, DET, tmp_path / 'random.pth', '--size', 64, 96, '--batch', 2, '--json', *FEW,
               '--cfg-options', 'model.test_cfg.score_thr=0', 'model.test_cfg.max_per_img=7')
    found = json.loads(done.stdout)
    assert found['found'] == 14
    assert found['seconds'] > 0
    assert found['bytes'] >= 0
    assert (found['batch'], found['size']) == (2, [64, 96])


@pytest.mark.parametrize(('args', 'message'), [
    (('configs/none.py',), 'config not found'), ((DET, '/none.pth'), 'checkpoint not found: /none.pth'),
    ((DET, '--image', '/none.png'), '/none.png cannot be read: FileNotFoundError'),
    pytest.param((DET, '--device', 'cuda'), '--device cuda: there is no GPU', marks=pytest.mark.skipif(
        torch.cuda.is_available(), reason='there is a GPU')),
    pytest.param((DET, '--cfg-options', 'model.bbox_head.num_clases=2', *FEW), "argument 'num_clases'",
                 marks=pytest.mark.slow)])
def test_what_is_wrong_with_a_config_is_named(one_line, args, message):
    assert message in one_line(TOOL, *args)


def test_the_image_of_a_file_is_in_the_order_of_the_loader(tmp_path):
    Image.new('RGB', (7, 5), (10, 20, 30)).save(tmp_path / 'x.png')
    image = read_image(str(tmp_path / 'x.png'), (3, 4))
    assert image.shape == (3, 3, 4)
    assert image[:, 0, 0].tolist() == [30, 20, 10]


def test_memory_sees_what_a_step_needs_and_not_what_was_there():
    kept = torch.ones(2 ** 24)
    before = memory(kept.device, reset=True)
    torch.ones(2 ** 24).sum()
    used = memory(kept.device) - before
    assert used == pytest.approx(2 ** 26, rel=0.2)
