import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmattn.registry  # noqa: F401
from mmattn.openmmlab import choose_checkpoint_reading


class Numbers(Dataset):
    """Eight samples, each a number with noise, so that the generators matter."""

    metainfo = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {'inputs': torch.tensor([float(index), 1.0]) + 0.1 * torch.rand(2)}


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.middle = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
        self.last = nn.Linear(4, 1)

    def forward(self, inputs, mode='tensor'):
        x = self.last(self.middle(self.first(torch.stack(list(inputs)))))
        return {'loss': x.square().mean()} if mode == 'loss' else x


def build(work_dir, model=None, batch_size=2, optim_wrapper=(), train_cfg=(), resume=False, numbered=True, more=(),
          **hooks):
    """MMEngine's runner of a toy training of 6 iterations, with the hooks given by name, and more of its arguments."""
    choose_checkpoint_reading()         # as the tools do: MMEngine 0.10.7 cannot read its own files
    torch.manual_seed(0)
    sampler = dict(type='InfiniteSampler')
    cfg = ConfigDict(
        train_dataloader=dict(
            batch_size=batch_size, num_workers=0, dataset=Numbers(),
            sampler=dict(type='mmattn.NumberedSampler', sampler=sampler) if numbered else sampler),
        train_cfg={**dict(type='IterBasedTrainLoop', max_iters=6), **dict(train_cfg)},
        optim_wrapper=optim_wrapper if isinstance(optim_wrapper, OptimWrapper) else {
            **dict(optimizer=dict(type='AdamW', lr=0.01)), **dict(optim_wrapper)},
        default_hooks={**dict(checkpoint=dict(type='mmattn.CheckpointHook', by_epoch=False, interval=1),
                              seed=dict(type='mmattn.SeedHook')), **hooks})
    cfg.default_hooks = {name: hook for name, hook in cfg.default_hooks.items() if hook}
    return Runner(model=model or Net(), work_dir=str(work_dir), resume=resume, randomness=dict(seed=0),
                  experiment_name=f'toy{len(list(work_dir.parent.iterdir()))}{id(cfg)}', default_scope='mmengine',
                  log_level='ERROR', **cfg, **dict(more))


@pytest.fixture
def runner(tmp_path):
    """`build`, for the folder of the test unless told otherwise."""
    def call(work_dir=tmp_path, *args, **options):
        return build(work_dir, *args, **options)
    return call
