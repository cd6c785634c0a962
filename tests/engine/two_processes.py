"""Two trainings at once of a model that exchanges numbers between them, started by torchrun: trains and validates until
one of them meets a number that is not finite, and writes what each process says, case by case."""
import json
import sys
from pathlib import Path

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.evaluator import BaseMetric, Evaluator
from torch import nn

from mmattn.errors import NonFiniteError
from tests.engine.conftest import Net, Numbers, build


class Exchange(nn.Module):
    """Subtracts the mean over all processes, as synchronized batch norm does, and makes a number that is not finite in
    a call, counted from 1 in training and in validation each: forwards, or backwards alone."""

    def __init__(self, kind, call):
        super().__init__()
        self.kind = kind
        self.call = call
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer('calls', torch.zeros(2))

    def forward(self, x):
        self.calls[int(self.training)] += 1
        if self.training:
            mean = x.detach().mean(0)
            all_reduce(mean, 'mean')
            x = (x - mean) * self.weight
        due = self.calls[int(self.training)] == self.call and self.training == (self.kind != 'eval')
        if self.kind is None or not due:
            return x
        if self.kind == 'backward':             # the square root of zero has an infinite slope
            return x + (x.detach() * 0 * self.weight).sqrt()
        return x / 0


def net(kind, call):
    model = Net()
    model.middle = nn.Sequential(nn.ReLU(), Exchange(kind, call))
    return model


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {'count': len(results)}


# What goes wrong, in which process, at which call. Of five samples, process 0 validates three and process 1 two.
CASES = {'loss': ('forward', 1, 3), 'gradient': ('backward', 1, 3), 'output': ('eval', 1, 2), 'last': ('eval', 0, 3)}


def main(folder):
    torch.distributed.init_process_group('gloo')
    said = {}
    for name, (kind, process, call) in CASES.items():
        model = net(kind if get_rank() == process else None, call)
        sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
        dataset = torch.utils.data.Subset(Numbers(), range(5))
        validation = dict(
            val_dataloader=dict(batch_size=1, num_workers=0, dataset=dataset, sampler=sampler), val_cfg=dict(),
            val_evaluator=Evaluator(Count(prefix='of')))
        wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
        runner = build(folder / name, model, train_cfg=dict(val_interval=4),
                       more=dict(validation, launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper)),
                       non_finite=dict(type='mmattn.NonFiniteHook'))
        try:
            runner.train()
        except NonFiniteError as error:
            said[name] = str(error)
    (folder / f'said_{get_rank()}.json').write_text(json.dumps(said))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
