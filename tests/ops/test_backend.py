import pytest

from mmattn.ops.backend import choose_backend

REASONS = {'fast': ['no CUDA', 'odd heads'], 'good': [], 'plain': [], 'reference': []}


def choose(requested=None):
    return choose_backend(['fast', 'good', 'plain'], REASONS.__getitem__, 'MMATTN_TEST', requested, ('reference',))


def test_the_first_that_can_run_is_taken_and_no_other_asked():
    assert choose() == 'good'
    asked = []
    choose_backend(['good', 'fast'], lambda name: asked.append(name) or [], 'MMATTN_TEST')
    assert asked == ['good']


def test_the_argument_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv('MMATTN_TEST', 'plain')
    assert choose() == 'plain'
    assert choose('reference') == 'reference'
    monkeypatch.setenv('MMATTN_TEST', '')
    assert choose() == 'good'


def test_refusals_and_unknown_names_say_who_asked_and_why(monkeypatch):
    with pytest.raises(ValueError, match=r"^backend='fast' cannot run: no CUDA; odd heads$"):
        choose('fast')
    with pytest.raises(ValueError, match=r"^backend='best' is unknown; choose one of fast, good, plain, reference$"):
        choose('best')
    monkeypatch.setenv('MMATTN_TEST', 'fast')
    with pytest.raises(ValueError, match=r'^MMATTN_TEST=fast cannot run: no CUDA; odd heads$'):
        choose()
