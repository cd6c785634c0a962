"""Stop at the first number that is not finite, name the module that made it, and keep the step to run it again."""
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmattn.engine.precision import keep_in_float32
from mmattn.errors import NonFiniteError
from mmattn.registry import HOOKS


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stops where a loss, a gradient or, in validation and test, the output of a part of the model is not finite.

    A training stops before its weights are changed. The call of the model, its weights and the states of the generators
    go to `non_finite_step_N.pth` in the work directory, for `tools/replay.py`; with several processes, each that meets
    such a number writes one. Where losses are scaled (float16), gradients are the scaler's to check. A compiled step is
    left alone.

    Raises:
        NonFiniteError: names what is not finite and the first module that made it.
    """

    def __init__(self):
        self._model = None
        self._call = None
        self._handles = []

    def before_train(self, runner):
        self._watch(runner)
        if self._checks_gradients(runner):
            self._handles.append(runner.optim_wrapper.optimizer.register_step_pre_hook(
                lambda *_: self._check_gradients(runner)))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self._checks_gradients(runner):
            self._check_gradients(runner)       # of an accumulation that goes on

    def before_val(self, runner):
        self._watch(runner)

    def before_test(self, runner):
        self._watch(runner)

    def _watch(self, runner):
        if self._model or runner.cfg.get('compile'):
            return
        self._model = runner.model.module if is_model_wrapper(runner.model) else runner.model

        def keep(model, args, kwargs):
            self._call = call_of(model, kwargs)

        def check_losses(model, args, losses):
            if model.training and isinstance(losses, dict):
                wrong = [name for name, loss in losses.items() if not finite(loss)]
                if wrong:
                    self._stop(runner, ', '.join(wrong))

        def check_part(name):
            def check(part, args, output):
                if not part.training and not finite(output):
                    self._stop(runner, f'the output of {name}')
            return check

        self._handles = [part.register_forward_hook(check_part(name)) for name, part in self._model.named_children()]
        self._handles += [self._model.register_forward_pre_hook(keep, with_kwargs=True),
                          self._model.register_forward_hook(check_losses)]

    def _checks_gradients(self, runner):
        return self._model and not hasattr(runner.optim_wrapper, 'loss_scaler')

    def _check_gradients(self, runner):
        if not finite([p.grad for p in self._model.parameters() if p.grad is not None]):
            self._stop(runner, 'the gradient')

    def _stop(self, runner, what):
        for handle in self._handles:
            handle.remove()
        rank, step = get_rank(), runner.iter + 1
        path = Path(runner.work_dir) / f'non_finite_step_{step}{f"_rank_{rank}" if rank else ""}.pth'
        torch.save({'state_dict': self._model.state_dict(), 'call': self._call}, path)
        raise NonFiniteError(f'step {step}: {what} is not finite, {find_culprit(self._model, self._call)}; what the '
                             f'model was given, its weights and the generators are in {path}, for tools/replay.py')


def call_of(model, kwargs):
    """What is needed to repeat a call of a model: its arguments, its mode, mixed precision and the generators.

    Returns:
        dict: 'kwargs', 'training', 'autocast' (torch.dtype | None), 'generators'.
    """
    device = next(model.parameters()).device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    numpy = np.random.get_state()       # noqa: NPY002, the generator that augmentations use
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return dict(kwargs=kwargs, training=model.training, autocast=autocast,
                generators=(random.getstate(), numpy, torch.get_rng_state(), cuda))


def find_culprit(model, call):
    """Run a call again and find where numbers stop being finite.

    Args:
        model (nn.Module): with the weights of the call; its buffers may change.
        call (dict): see `call_of`.

    Returns:
        str: names the first module whose output is not finite although its inputs are, then the first parameter or
            output whose gradient is not; or says that all are finite this time.
    """
    found, handles = [], []

    def watch(name):
        def check(module, args, kwargs, output):
            if not found and not finite(output):
                wrong = [part for part, value in module.named_parameters(recurse=False) if not finite(value)]
                reason = f'whose {wrong[0]} is not finite' if wrong else (
                    'whose inputs are finite' if finite((args, kwargs)) else 'whose inputs are not finite')
                found.append(f'first in {name or "the model"} ({type(module).__name__}), {reason}')
            for tensor in tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(check_gradient(f'on the way back to the output of {name}'))
        return check

    def check_gradient(place):
        def check(gradient):
            if not found and not finite(gradient):
                found.append(f'first {place}')
        return check

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(watch(name), with_kwargs=True))
    handles += [p.register_hook(check_gradient(f'in that of {name}'))
                for name, p in model.named_parameters() if p.requires_grad]
    try:
        losses = repeat(model, call)
        if not found and call['training']:
            wrong = [name for name, loss in losses.items() if not finite(loss)]
            if wrong:
                return f'made of finite outputs by the computation of {wrong[0]}'
            sum(loss.sum() for name, loss in losses.items() for loss in tensors(loss) if 'loss' in name).backward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else 'but finite when it was run again'


def repeat(model, call):
    """The output of a call that is made again, see `call_of`."""
    python, numpy, cpu, cuda = call['generators']
    random.setstate(python)
    np.random.set_state(numpy)          # noqa: NPY002, as above
    torch.set_rng_state(cpu)
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)
    model.train(call['training']).zero_grad()
    device, dtype = next(model.parameters()).device.type, call['autocast']
    if dtype is not None:
        keep_in_float32(model)
    with torch.set_grad_enabled(call['training']), torch.autocast(device, dtype, enabled=dtype is not None):
        return model(**call['kwargs'])


def tensors(value):
    """The floating-point tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def finite(value):
    """Whether every number in nested containers of tensors is finite."""
    parts = [torch.isfinite(part).all() for part in tensors(value)]
    return not parts or bool(torch.stack(parts).all())
