"""What the first of several processes finds out for all of them: two processes over gloo."""
import pytest

from mmattn.datasets.processes import on_the_first
from mmattn.errors import UsageError

PROCESS = '''
import torch.distributed
from mmattn.datasets.processes import on_the_first
from mmattn.errors import UsageError
torch.distributed.init_process_group('gloo')
rank = torch.distributed.get_rank()
found = on_the_first(lambda: f'found by {rank}')
try:
    on_the_first(lambda: (_ for _ in ()).throw(UsageError(f'refused by {rank}')))
except UsageError as error:
    open(f'{FOLDER}/{rank}', 'w').write(f'{found}, {error}')
torch.distributed.destroy_process_group()
'''


def test_the_second_gets_what_the_first_found(run, tmp_path):
    (tmp_path / 'process.py').write_text(PROCESS.replace('{FOLDER}', str(tmp_path)))
    run('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', tmp_path / 'process.py')
    assert [(tmp_path / name).read_text() for name in '01'] == ['found by 0, refused by 0'] * 2


def test_one_process_finds_out_for_itself():
    assert on_the_first(lambda: 3) == 3
    with pytest.raises(UsageError, match='no'):
        on_the_first(lambda: (_ for _ in ()).throw(UsageError('no')))
