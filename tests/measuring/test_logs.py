"""Logs of trainings: resumed runs are one, another training is another."""
import json

import pytest

from mmattn.errors import UsageError
from mmattn.measuring.logs import read_training


def write(work, time, lines, resume=None):
    """A run, as MMEngine writes it."""
    folder = work / time / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    if resume is not None:
        (folder / 'config.py').write_text(f'lr = 1\nresume = {resume}\nseed = 0\n')
    return folder / 'scalars.json'


def steps(*iterations, loss=1.0):
    return [dict(lr=0.1, loss=loss, time=0.5, iter=i, step=i) for i in iterations]


@pytest.mark.parametrize('resume', [(False, True, True), (None, None, None)])
def test_a_resumed_run_takes_the_place_of_what_came_after_its_start(tmp_path, resume):
    write(tmp_path, '20260101_000000', [*steps(1, 2), dict(mIoU=10, time=9, step=2), *steps(3, 4, loss=2.0),
                                        dict(mIoU=11, time=9, step=4)], resume[0])
    write(tmp_path, '20260101_000100', [], resume[1])                  # killed before it logged a thing
    write(tmp_path, '20260101_000200', [*steps(3, 4, 5, loss=3.0), dict(mIoU=12, step=5)], resume[2])
    found = read_training(tmp_path)
    assert (found.runs, found.left_out) == (2, 0)
    assert found.curve('loss') == ([1, 2, 3, 4, 5], [1, 1, 3, 3, 3])
    assert found.curve('mIoU') == ([2, 5], [10, 12])
    assert found.curve('time')[1] == [0.5] * 5       # of training steps, not of the validation
    assert found.main_keys == ['loss', 'lr', 'mIoU']
    assert found.keys == ['lr', 'loss', 'time', 'mIoU']


def test_another_training_in_the_folder_is_another(tmp_path):
    first = write(tmp_path, '20260101_000000', steps(1, 2), False)
    write(tmp_path, '20260101_000100', steps(2, 4), False)         # logs less often, and starts at the beginning
    found = read_training(tmp_path)
    assert found.curve('loss').steps == [2, 4]
    assert (found.runs, found.left_out) == (1, 1)
    assert read_training(first).curve('loss').steps == [1, 2]
    assert read_training(first.parents[1]).curve('loss').steps == [1, 2]


def test_a_run_that_found_nothing_to_resume_starts_again(tmp_path):
    write(tmp_path, '20260101_000000', steps(1, 2), False)
    write(tmp_path, '20260101_000100', steps(1, loss=5.0), True)
    found = read_training(tmp_path)
    assert found.curve('loss') == ([1], [5])
    assert found.runs == 1


def test_a_line_that_was_cut_by_the_end_of_a_process_is_left_out(tmp_path):
    file = write(tmp_path, '20260101_000000', steps(1))
    file.write_text(file.read_text() + '{"loss": 0.')
    assert read_training(file).curve('loss').steps == [1]
    file.write_text('{"loss": 0.\n' + file.read_text())
    with pytest.raises(UsageError, match='is not a log of scalars: line 1 is'):
        read_training(file)


def test_a_folder_without_a_log(tmp_path):
    with pytest.raises(UsageError, match='no log of a training in'):
        read_training(tmp_path)
    write(tmp_path, '20260101_000000', [])
    with pytest.raises(UsageError, match='nothing was logged'):
        read_training(tmp_path)
