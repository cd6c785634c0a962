from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmattn.registry import HOOKS


@HOOKS.register_module()
class AverageLossesHook(Hook):
    """Logs the mean of each loss over all processes instead of the first one's.

    Raises:
        RuntimeError: processes computed different numbers of losses.
    """

    priority = 'HIGHEST'        # before the losses are written down

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict[str, Any] | None = None) -> None:
        if get_world_size() == 1 or not outputs:
            return
        losses = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
        device = next(iter(losses.values())).device
        counts = torch.tensor([len(losses), -len(losses)], device=device)
        all_reduce(counts, 'max')
        if counts.sum():
            raise RuntimeError(f'{len(losses)} losses in this process ({", ".join(losses)}), {counts[0]} in another; '
                               'a model must compute the same ones for every batch')
        means = torch.stack([value.detach().double().mean() for value in losses.values()])
        all_reduce(means, 'mean')
        outputs.update(zip(losses, means.float()))
