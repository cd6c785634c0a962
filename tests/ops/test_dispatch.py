import logging
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mmattn.errors import ArgumentError
from mmattn.ops import convolution, deformable, dispatch, explain, grouped, neighborhood, routing
from mmattn.ops.dispatch import Budget, Implementation, Implementations, for_comparison
from tests.conftest import ROOT

MODULES = {'centred_convolution': convolution, 'deformable_attention': deformable, 'grouped_attention': grouped,
       'neighborhood_attention': neighborhood, 'routed_attention': routing}


def set_budgets(monkeypatch, table, numbers):
    """All implementations of a table may hold so many numbers of a kind."""
    for name, row in table.rows.items():
        budgets = {kind: Budget(numbers, 4 * numbers / dispatch.free_memory(torch.device('meta')))
                   for kind in row.budgets}
        monkeypatch.setitem(table.rows, name, replace(row, budgets=budgets))


@pytest.fixture
def calls(monkeypatch):
    """What the rows of `double` were asked."""
    monkeypatch.setattr(dispatch, 'OPS', {})
    monkeypatch.setattr(dispatch, '_logged', set())
    return []


@pytest.fixture
def table(calls):
    """Of an op that doubles a tensor of at least so many entries; the fast row wants ten, the good one three."""
    def run(x, least, block=None):
        calls.append(('run', block))
        return 2 * x

    def at_least(name, count):
        def refusals(x, least):
            calls.append(name)
            return [f'{name} needs {count} entries, x has {x.numel()}'] if x.numel() < count else []
        return refusals

    return Implementations('double', 'MMATTN_TEST', {
        'fast': Implementation(run, at_least('fast', 10), lambda x, least: ['least is odd'] if least % 2 else []),
        'good': Implementation(run, at_least('good', 3), budgets={'block': Budget(cpu=7, share=1 / 64)}),
        'reference': Implementation(run, reservations=for_comparison)})


def double(x, least=0, backend=None):
    return dispatch.OPS['double'].run(backend, x, least)


def test_the_first_without_refusals_or_reservations_runs_and_no_other_is_asked(table, calls):
    assert table.choose(None, torch.ones(10), 0) == 'fast'
    assert calls == ['fast']
    assert table.choose(None, torch.ones(9), 0) == 'good'
    assert calls == ['fast', 'fast', 'good']
    del calls[:]
    assert table.choose(None, torch.ones(10), 1) == 'good'
    assert calls == ['good']        # a row with a reservation is not asked: its refusals may be slow


def test_where_all_have_something_against_it_the_fallback_runs_or_nothing(table):
    with pytest.raises(ArgumentError, match=r'^double cannot run: fast: fast needs 10 entries, x has 1; good: good '
                                            r'needs 3 entries, x has 1; reference: the plain formula, for comparison$'):
        table.choose(None, torch.ones(1), 0)
    table.fallback = 'reference'
    assert table.choose(None, torch.ones(1), 0) == 'reference'
    table.fallback = 'good'
    with pytest.raises(ArgumentError, match=r'^double cannot run: good needs 3 entries, x has 1$'):
        table.choose(None, torch.ones(1), 0)


def test_the_argument_comes_before_the_environment(table, monkeypatch):
    monkeypatch.setenv('MMATTN_TEST', 'fast')
    assert table.choose(None, torch.ones(10), 1) == 'fast'
    assert table.choose('reference', torch.ones(10), 1) == 'reference'
    monkeypatch.setenv('MMATTN_TEST', '')
    assert table.choose(None, torch.ones(10), 1) == 'good'


def test_refusals_and_unknown_names_say_who_asked_and_why(table, monkeypatch):
    with pytest.raises(ArgumentError, match=r"^backend='fast' cannot run: fast needs 10 entries, x has 2$"):
        table.choose('fast', torch.ones(2), 0)
    with pytest.raises(ArgumentError, match=r"^backend='best' is unknown; choose one of fast, good, reference$"):
        table.choose('best', torch.ones(2), 0)
    with pytest.raises(ArgumentError, match=r"^backend=\[\] is unknown; choose one of fast, good, reference$"):
        table.choose([], torch.ones(2), 0)
    monkeypatch.setenv('MMATTN_TEST', 'fast')
    with pytest.raises(ArgumentError, match=r'^MMATTN_TEST=fast cannot run: fast needs 10 entries, x has 2$'):
        table.choose(None, torch.ones(2), 0)


def test_a_row_gets_its_budget_of_the_device(table, calls):
    assert double(torch.ones(5)).tolist() == [2] * 5
    double(torch.ones(5, device='meta'))
    double(torch.ones(5), backend='reference')
    assert [call for call in calls if call[0] == 'run'] == [('run', 7), ('run', 2 ** 26), ('run', None)]


def test_explain_says_what_runs_and_what_speaks_against_the_others(table, monkeypatch):
    x = torch.ones(5)
    assert explain(double, x, least=1).splitlines() == [
        'double of [5], torch.float32 on cpu', '  fast: least is odd', '  good: runs',
        '  reference: the plain formula, for comparison']
    assert explain(double, torch.ones(10)).splitlines()[1:3] == ['  fast: runs', '  good: fast comes first']
    assert explain(double, x, backend='reference').splitlines()[1:] == [
        '  fast: fast needs 10 entries, x has 5', '  good: reference is asked for',
        "  reference: runs, as backend='reference' asks"]
    table.fallback = 'reference'
    assert explain(double, x[:1]).endswith('  reference: runs, as the fallback (the plain formula, for comparison)')
    monkeypatch.setenv('MMATTN_TEST', 'good')
    assert explain(double, x).splitlines()[2] == '  good: runs, as MMATTN_TEST=good asks'
    with pytest.raises(ArgumentError, match=r'^op=sample has one implementation; those with several are double$'):
        explain(deformable.sample, x)


def test_the_log_says_it_once_at_debug_and_asks_no_one_otherwise(table, calls, caplog):
    with caplog.at_level(logging.INFO, 'mmattn'):
        double(torch.ones(11))
    assert not caplog.records
    assert calls == ['fast', ('run', None)]
    with caplog.at_level(logging.DEBUG, 'mmattn'):
        for count in (11, 11, 5):
            double(torch.ones(count), 2)
    assert caplog.messages == [
        'double of [11], torch.float32 on cpu: fast (fast: runs; good: fast comes first; reference: the plain '
        'formula, for comparison)',
        'double of [5], torch.float32 on cpu: good (fast: fast needs 10 entries, x has 5; good: runs; reference: the '
        'plain formula, for comparison)']


@pytest.mark.filterwarnings('ignore')
def test_the_log_says_what_torch_jit_records(table, caplog):
    table.fallback = 'reference'
    with caplog.at_level(logging.DEBUG, 'mmattn'):
        torch.jit.trace(double, torch.ones(2), check_trace=False)
    assert caplog.messages == [
        'double of [2], torch.float32 on cpu: reference (fast: fast needs 10 entries, x has 2; good: good needs 3 '
        'entries, x has 2; reference: runs, as the fallback (the plain formula, for comparison))']


@pytest.mark.parametrize('name', MODULES)
def test_every_op_keeps_its_plain_formula_for_comparison_and_a_variable(name):
    table = MODULES[name].IMPLEMENTATIONS
    assert dispatch.OPS[name] is table
    assert table.variable == f'MMATTN_{name.upper()}'
    assert table.rows['reference'].reservations() == ['the plain formula, for comparison']
    assert table.fallback in (None, 'reference')


def test_explain_of_an_op():
    q, points = torch.rand(1, 2, 32, 64, 8), torch.rand(1, 1, 32, 64, 2)
    assert explain(deformable.deformable_attention, q, q, q, points, torch.rand(2, 9, 9), convention='dat') == '''\
deformable_attention of [1, 2, 32, 64, 8], torch.float32 on cpu
  triton: the interpreter is for tests
  separable: runs
  dense: separable comes first
  reference: the plain formula, for comparison'''


def test_a_gpu_is_asked_once_how_much_of_its_memory_is_free(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: asked.append(device) or (8 * 2 ** 20, 0))
    device = torch.device('cuda', 7)
    try:
        assert [Budget(cpu=3, share=1 / 4).on(device) for _ in range(2)] == [2 ** 19] * 2
        assert asked == [device]
    finally:
        dispatch.free_memory.cache_clear()


def test_importing_the_package_of_ops_needs_no_torch():
    code = 'import sys, mmattn.ops; assert callable(mmattn.ops.explain); print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout == 'False\n'
