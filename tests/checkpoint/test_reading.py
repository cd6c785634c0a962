import argparse
import os
import sys
import types

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint

from mmattn.checkpoint.reading import read_as_chosen, read_checkpoint, state_dict_of
from mmattn.errors import CheckpointError
from mmattn.openmmlab import choose_checkpoint_reading
from tests.models import small


@pytest.fixture
def save(tmp_path):
    def write(content, name='file.pth'):
        torch.save(content, tmp_path / name)
        return tmp_path / name
    return write


class Trap:
    """Leaves a folder behind when it is unpickled the ordinary way."""
    path = None

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_file_is_not_run(save, tmp_path):
    Trap.path = str(tmp_path / 'trapped')
    path = save({'model': {'w': torch.zeros(1)}, 'extra': Trap()})
    with pytest.raises(CheckpointError, match=r'is refused: it holds \w+\.mkdir, and reading that would run code'):
        read_checkpoint(path)
    assert not (tmp_path / 'trapped').exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / 'trapped').exists()          # the trap works


def test_containers_that_training_scripts_leave_are_read_as_nothing(save, monkeypatch):
    yacs, config = types.ModuleType('yacs'), types.ModuleType('yacs.config')

    class CfgNode(dict):
        def __init__(self, *args):
            raise AssertionError('the class itself must not be used')

    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    config.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', yacs)
    monkeypatch.setitem(sys.modules, 'yacs.config', config)
    node = CfgNode.__new__(CfgNode)
    node['MODEL'] = 'dat'
    node.__dict__['frozen'] = True
    path = save({'model': {'w': torch.ones(2)}, 'config': node, 'args': argparse.Namespace(lr=1), 'epoch': 3})
    monkeypatch.delitem(sys.modules, 'yacs.config')
    monkeypatch.delitem(sys.modules, 'yacs')
    content = read_checkpoint(path)
    assert content['epoch'] == 3
    assert torch.equal(state_dict_of(content)['w'], torch.ones(2))


@pytest.mark.parametrize('nest', [lambda s: s, lambda s: {'state_dict': s, 'meta': {}}, lambda s: {'model': s},
                                  lambda s: {'module': s, 'epoch': 1}])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_parameters_are_found_in_every_layout(save, nest, prefix):
    path = save(nest({f'{prefix}a.weight': torch.ones(2), f'{prefix}b': torch.zeros(1)}))
    assert set(state_dict_of(read_checkpoint(path))) == {'a.weight', 'b'}


def test_files_that_are_no_checkpoints_are_named(save, tmp_path):
    with pytest.raises(CheckpointError, match=r'nothing\.pth does not exist'):
        read_checkpoint(tmp_path / 'nothing.pth')
    text = tmp_path / 'text.pth'
    text.write_text('hello')
    with pytest.raises(CheckpointError, match=r'text\.pth is no checkpoint'):
        read_checkpoint(text)
    (tmp_path / 'empty.pth').touch()
    with pytest.raises(CheckpointError, match=r'empty\.pth is no checkpoint'):
        read_checkpoint(tmp_path / 'empty.pth')
    whole = save({'a': torch.zeros(10000)})
    (tmp_path / 'cut.pth').write_bytes(whole.read_bytes()[:20000])
    with pytest.raises(CheckpointError, match=r'cut\.pth is no checkpoint'):
        read_checkpoint(tmp_path / 'cut.pth')
    with pytest.raises(CheckpointError, match=r'holds a list; a checkpoint is a dict'):
        read_checkpoint(save([torch.zeros(1)]))
    with pytest.raises(CheckpointError, match=r'the file holds no tensors; its entries are: epoch, lr'):
        state_dict_of({'epoch': 1, 'lr': 0.1}, 'the file')


def test_what_a_training_saves_is_read_whole(save):
    logs = HistoryBuffer([0.5, 0.25], [1, 1])
    content = {'state_dict': {'w': torch.ones(2)}, 'meta': {'epoch': 3, 'seed': np.int64(7)},
               'message_hub': {'log_scalars': {'train/loss': logs}}, 'optimizer': {'state': {}, 'param_groups': []}}
    read = read_checkpoint(save(content))
    assert read['message_hub']['log_scalars']['train/loss'].mean() == 0.375
    assert read['meta'] == {'epoch': 3, 'seed': 7}


def test_logs_open_no_door_to_other_attributes(save):
    class Door:
        def __reduce__(self):
            return getattr, (HistoryBuffer, '__init__')

    with pytest.raises(CheckpointError, match=r'is refused: it holds builtins\.getattr'):
        read_checkpoint(save({'w': torch.zeros(1), 'door': Door()}))


@pytest.fixture
def loader():
    """MMEngine's own reading comes back after the test."""
    schemes, over_http = dict(CheckpointLoader._schemes), checkpoint.load_from_http
    yield
    CheckpointLoader._schemes, checkpoint.load_from_http = schemes, over_http


@pytest.mark.usefixtures('loader')
def test_mmengine_reads_what_it_is_told_to(save, tmp_path):
    Trap.path = str(tmp_path / 'trapped')
    path = str(save({'state_dict': {'weight': torch.ones(1, 1)}, 'extra': Trap()}))
    model = torch.nn.Linear(1, 1, bias=False)
    choose_checkpoint_reading()
    with pytest.raises(CheckpointError, match='is refused'):
        checkpoint.load_checkpoint(model, path)
    assert not (tmp_path / 'trapped').exists()
    choose_checkpoint_reading(trust=True)
    checkpoint.load_checkpoint(model, path)
    assert (tmp_path / 'trapped').exists()
    assert model.weight.item() == 1


def test_a_file_in_the_home_folder(save, tmp_path, monkeypatch):
    save({'w': torch.ones(2)}, 'home.pth')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert torch.equal(read_checkpoint('~/home.pth')['w'], torch.ones(2))
    assert torch.equal(read_as_chosen('~/home.pth')['w'], torch.ones(2))
    with pytest.raises(CheckpointError, match=rf'^{tmp_path}/none\.pth does not exist'):
        read_checkpoint('~/none.pth')


def old_reading(path, map_location=None):
    """As MMEngine's own reader in some versions, whatever the one that is installed does."""
    return torch.load(path, map_location=map_location, weights_only=False)


old_reading.__module__ = 'mmengine.runner.checkpoint'


@pytest.mark.usefixtures('loader')
def test_weights_to_start_from_run_code_only_where_they_are_trusted(save, tmp_path):
    Trap.path = str(tmp_path / 'trapped')
    path = str(save({'state_dict': small().state_dict(), 'extra': Trap()}))

    def start():
        small(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()

    CheckpointLoader.register_scheme('', old_reading, force=True)
    with pytest.raises(CheckpointError, match='is refused'):        # nobody has chosen
        start()
    choose_checkpoint_reading()
    with pytest.raises(CheckpointError, match='is refused'):
        start()
    assert not (tmp_path / 'trapped').exists()
    choose_checkpoint_reading(trust=True)
    start()
    assert (tmp_path / 'trapped').exists()


@pytest.mark.usefixtures('loader')
def test_a_reader_that_a_program_registered_reads_weights_to_start_from():
    source = small()
    CheckpointLoader.register_scheme('', lambda path, map_location=None: {'state_dict': source.state_dict()},
                                     force=True)
    model = small(init_cfg=dict(type='Pretrained', checkpoint='elsewhere'))
    model.init_weights()
    assert torch.equal(model.stem[0].weight, source.stem[0].weight)
    CheckpointLoader.register_scheme('', lambda path, map_location=None: [3], force=True)
    with pytest.raises(CheckpointError, match='elsewhere holds a list; a checkpoint is a dict of tensors'):
        read_as_chosen('elsewhere')
