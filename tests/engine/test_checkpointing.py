import errno

import pytest
import torch

from mmattn.checkpoint.reading import read_checkpoint
from mmattn.engine.checkpointing import CheckpointHook, WholeFiles, check_resumable, check_same_model, saved_checkpoints
from mmattn.errors import CheckpointError
from tests.engine.conftest import Net


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / 'a' / 'file'
    WholeFiles().put(b'old', str(path))
    with pytest.raises(TypeError):
        WholeFiles().put('not bytes', str(path))
    assert path.read_bytes() == b'old'
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('limit', [1, 2])
def test_a_full_disk_loses_no_earlier_checkpoint(runner, tmp_path, monkeypatch, limit):
    put, calls = WholeFiles.put, []

    def full_at_fourth(self, obj, path):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, 'No space left on device')
        put(self, obj, path)

    monkeypatch.setattr(WholeFiles, 'put', full_at_fourth)
    hook = dict(type='mmattn.CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=limit)
    with pytest.raises(CheckpointError, match='No space left on device; those saved before are as they were'):
        runner(checkpoint=hook).train()
    names = [f'iter_{3 - i}.pth' for i in range(limit)]
    assert [path.name for path in saved_checkpoints(tmp_path)] == names
    for name in names:
        check_resumable(read_checkpoint(tmp_path / name), name)
    again = runner(resume=True, checkpoint=hook)
    again.train()
    assert again.iter == 6
    assert [path.name for path in saved_checkpoints(tmp_path)] == [f'iter_{6 - i}.pth' for i in range(limit)]


def test_a_validation_without_a_training_saves_nothing(runner, tmp_path):
    validating = runner()
    hook, = (hook for hook in validating.hooks if isinstance(hook, CheckpointHook))
    hook.after_val_epoch(validating, {})
    assert not list(tmp_path.rglob('*.pth'))


def test_checkpoints_are_found_latest_first(tmp_path):
    assert saved_checkpoints(tmp_path) == []
    other = tmp_path / 'other'
    other.mkdir()
    for path in (tmp_path / 'iter_9.pth', tmp_path / 'iter_10.pth', tmp_path / 'best_iter_11.pth', other / 'iter_2.pth',
                 other / 'mine.pth'):
        path.touch()
    assert saved_checkpoints(tmp_path) == [tmp_path / 'iter_10.pth', tmp_path / 'iter_9.pth']
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('')          # killed while it was written
    assert saved_checkpoints(tmp_path) == [tmp_path / 'iter_10.pth', tmp_path / 'iter_9.pth']
    pointer.write_text(str(other / 'mine.pth'))
    assert saved_checkpoints(tmp_path)[0] == other / 'mine.pth'
    assert len(saved_checkpoints(tmp_path)) == 4
    pointer.write_text(str(other / 'gone.pth'))
    assert len(saved_checkpoints(tmp_path)) == 3


def test_what_cannot_be_resumed_from_is_said():
    state = Net().state_dict()
    with pytest.raises(CheckpointError, match=r'a\.pth .* it holds no optimizer, message_hub, meta'):
        check_resumable({'state_dict': state}, 'a.pth')
    check_same_model({'state_dict': state}, Net(), 'a.pth')
    other = {**state, 'first.weight': torch.zeros(4, 3), 'more': torch.zeros(1)}
    del other['last.bias']
    with pytest.raises(CheckpointError, match=(
            r'a\.pth is of another model: 2 of 4 tensors are taken: 1 missing \(last\.bias\), 1 unknown \(more\), '
            r'1 of another shape \(first\.weight \[4, 3\] instead of \[4, 2\]\)')):
        check_same_model({'state_dict': other}, Net(), 'a.pth')
