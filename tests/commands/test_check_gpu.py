import json

import pytest
import torch

from mmattn.commands import check_gpu
from mmattn.measuring import gpu
from mmattn.ops.dispatch import OPS
from tests.conftest import ROOT

TOOL = 'tools/check_gpu.py'
SMALL = gpu.Settings('cpu', (32, 48), 1, 1)


@pytest.fixture(autouse=True)
def _not_interpreted(monkeypatch):
    """As for a user."""
    monkeypatch.setattr('mmattn.ops.fused.is_interpreted', lambda: False)


def test_a_task_runs_in_a_process_of_its_own_and_the_file_has_its_results(run, tmp_path):
    done = run(TOOL, '--device', 'cpu', '--only', 'calibrate', '--iterations', 1, '--out', tmp_path / 'gpu.json')
    whole = json.loads((tmp_path / 'gpu.json').read_text())
    assert [result['what'] for result in whole['results']] == [
        'copy', 'product, float32', 'product, bfloat16', 'product, float16', 'launch', 'atomic additions into 27 x 27']
    assert not whole['left_out']
    assert 'calibrate: done' in done.stdout
    assert 'gigabytes_a_second' in done.stdout


def test_what_fails_or_takes_too_long_is_left_out_with_a_reason(tmp_path):
    said = []
    whole = gpu.report(SMALL, tmp_path / 'gpu.json', 1, [('layer', 'no such layer')], said.append)
    assert whole['left_out'] == {'layer no such layer': "KeyError: 'no such layer'"}
    assert [line.split(',')[0] for line in said] == ["layer no such layer: KeyError: 'no such layer'"]
    whole = gpu.report(SMALL, tmp_path / 'gpu.json', 0.01, [('calibrate',)], said.append)
    assert whole['left_out'] == {'calibrate': '0.01 minutes were over'}


@pytest.mark.parametrize('op', ['deformable_attention', 'grouped_attention'])
def test_every_implementation_is_compared(monkeypatch, op):
    monkeypatch.setitem(gpu.PROBLEMS, op, gpu.PROBLEMS[op][:1])
    results = list(gpu.check(SMALL, op))
    assert {(result['backend'], result['dtype']) for result in results} == {
        (row, dtype) for row in OPS[op].rows if row not in ('reference', 'triton') for dtype in gpu.DTYPES} | {
        (row, dtype) for row in OPS[op].rows if row == 'triton' for dtype in gpu.DTYPES}
    for result in results:
        if result['backend'] != 'triton':
            assert result['ok'], result
            assert result['same_bits']


def test_what_is_wrong_is_called_wrong(monkeypatch, capsys):
    monkeypatch.setitem(gpu.PROBLEMS, 'grouped_attention', gpu.PROBLEMS['grouped_attention'][:1])
    row = OPS['grouped_attention'].rows['views']
    monkeypatch.setattr(gpu, 'ALLOWED', dict.fromkeys(gpu.DTYPES, 0.0))
    results = list(gpu.check(SMALL, 'grouped_attention'))
    assert row
    assert any(result['ok'] is False for result in results)
    check_gpu.print_table(dict(device='card', torch='1', triton=None, results=results, left_out={'task': 'why'}))
    printed = capsys.readouterr().out
    assert 'WRONG: shapes [0]' in printed
    assert 'left out: task: why' in printed


@pytest.mark.slow
@pytest.mark.parametrize('name', gpu.LAYERS)
def test_layers_are_timed(name, capsys):
    results = list(gpu.time_layer(SMALL, name))
    ran = [result for result in results if 'step_ms' in result]
    assert len(ran) == len(results) - 2 * ('triton' in {result['backend'] for result in results})
    assert all(result['forward_ms'] > 0 for result in ran)
    check_gpu.print_table(dict(device='cpu', torch='1', triton=None, results=results, left_out={}))
    assert capsys.readouterr().out.count(name) == len(results)


@pytest.mark.slow
@pytest.mark.parametrize('name', gpu.BACKBONES)
def test_backbones_are_timed(name, monkeypatch):
    for table in OPS.values():
        monkeypatch.setenv(table.variable, '')
    try:
        results = list(gpu.time_backbone(SMALL, name))
    finally:
        torch.use_deterministic_algorithms(False)
    assert [result for result in results if 'step_ms' in result] == results


def test_other_tiles_are_those_of_the_kernels():
    pytest.importorskip('triton', reason='Triton is not installed')
    for op in gpu.TILES:
        results = list(gpu.time_tiles(SMALL, op))
        assert len(results) == 1 + sum(map(len, gpu.TILES[op].values()))
        assert all('refused' in result for result in results)       # there is no GPU
        assert len({result['tiles'] for result in results}) == len(results)


def test_bad_arguments_end_in_a_line(one_line):
    if not torch.cuda.is_available():
        assert 'finds no GPU; --device cpu tries the command without one' in one_line(ROOT / TOOL)
    assert one_line(ROOT / TOOL, '--device', 'cpu', '--only', 'tea') == 'error: --only tea leaves no task'
    assert one_line(ROOT / TOOL, '--device', 'cpu', '--batch', 0) == (
        'error: --size, --batch and --iterations must be at least 1')
