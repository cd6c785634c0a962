import json

import pytest

from mmattn.measuring.timing import memory
from tests.conftest import ROOT

TOOL = ROOT / 'tools/benchmark.py'
FEW = ('--repeat', 1, '--iterations', 1)


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


def test_a_backbone_as_a_table(run):
    done = run(TOOL, 'dat_pp', '--arch', 'tiny', '--size', 64, 97, *FEW)
    lines = done.stdout.splitlines()
    assert lines[0].startswith('dat_pp tiny, 1 x 64 x 97, cpu, ')
    assert lines[1] == '| row | forward | ratio | added memory | differs by |'
    assert [line.split('|')[1].strip() for line in lines[3:]] == ['reference', 'mmattn']
    assert all(line.count('|') == lines[1].count('|') for line in lines[2:])


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
    done = run(TOOL, 'dat', '--arch', 'tiny', '--rows', 'no-bias', check=False)
    assert 'no-bias is a row for --layer' in done.stderr
    assert one_line(TOOL, 'dat', '--layer', '--size', 0, 5) == (
        'error: --size, --batch, --repeat and --iterations must be at least 1')
    done = run(TOOL, 'dat', '--layer', '--dim', 10, '--heads', 3, '--size', 5, 5, '--rows', 'mmattn', *FEW)
    assert 'ArgumentError: embed_dims=10 is not divisible by num_heads=3' in done.stdout


def test_memory_sees_what_a_step_needs_and_not_what_was_there():
    import torch
    kept = torch.ones(2 ** 24)
    before = memory(kept.device, reset=True)
    torch.ones(2 ** 24).sum()
    used = memory(kept.device) - before
    assert used == pytest.approx(2 ** 26, rel=0.2)
