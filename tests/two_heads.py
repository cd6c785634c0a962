"""Two steps of configs with a modern head in two processes, started by torchrun. Nobody looks for parameters without a
gradient: data-parallel training ends in an error where there is one."""
import json
import sys
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mmattn.engine.building import build_model
from tests.steps import batch
from tests.test_heads import config


def two_steps(name):
    """The losses of two steps, and a sum over the weights that they lead to."""
    cfg = config(name)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build_model(cfg))         # which needs a GPU
    model.init_weights()
    torch.manual_seed(get_rank())
    parallel = MMDistributedDataParallel(model, find_unused_parameters=False).train()
    optimizer = build_optim_wrapper(parallel, cfg.optim_wrapper)
    losses = []
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for _ in range(2):
            data = batch(cfg.default_scope, 'mask2former' in name, (192, 256) if 'dino' in name else (64, 96))
            losses.append(parallel.train_step(data, optimizer)['loss'].item())
    return losses, sum(p.detach().double().abs().sum().item() for p in model.parameters())


def main(folder, *names):
    torch.distributed.init_process_group('gloo')
    said = {name: two_steps(name) for name in names}
    (Path(folder) / f'said_{get_rank()}.json').write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(*sys.argv[1:])
