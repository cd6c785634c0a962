"""Stop at the first number that is not finite, name the module that made it, and keep the step to run it again."""
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

from mmattn.engine.precision import keep_in_float32
from mmattn.errors import NonFiniteError
from mmattn.registry import HOOKS


class Call(TypedDict):
    """What is needed to repeat a call of a model: its arguments, its mode, mixed precision (None: off) and the states
    of the generators of Python, NumPy, the CPU and each GPU."""

    kwargs: dict[str, Any]
    training: bool
    autocast: torch.dtype | None
    generators: tuple[Any, Any, Tensor, list[Tensor]]


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stops where a loss, a gradient or, in validation and test, the output of a part of the model is not finite.

    A training stops before its weights are changed. The call of the model, its weights and the states of the generators
    go to `non_finite_step_N.pth` in the work directory, for `tools/replay.py`. Where losses are scaled (float16),
    gradients are the scaler's to check. A compiled step is left alone.

    With several processes, all stop in the same place, after the losses, the gradients or a batch of validation: none
    is left waiting for another. Each that met such a number writes a file. The module is found by `tools/replay.py`
    alone, because a model may exchange numbers with the other processes, which do not run it again.

    Raises:
        NonFiniteError: names what is not finite and the first module that made it, or the process that met it.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._call: Call | None = None
        self._wrong: tuple[str, Call | None] | None = None      # what is not finite, in which call
        self._batches = 0                                       # of a validation, that every process has
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        self._watch(runner)
        for wrapper in self._unscaled(runner):
            self._handles.append(wrapper.optimizer.register_step_pre_hook(
                lambda *_, wrapper=wrapper: self._check_gradients(runner, [wrapper])))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._check_gradients(runner, self._unscaled(runner))       # of an accumulation that goes on

    def before_val(self, runner: Runner) -> None:
        self._watch(runner)
        self._batches = _fewest(runner, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        self._watch(runner)
        self._batches = _fewest(runner, 'test_dataloader')

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if batch_idx < self._batches:
            self._meet(runner)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.after_val_iter(runner, batch_idx)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._meet(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._meet(runner)

    def _watch(self, runner: Runner) -> None:
        if self._model or runner.cfg.get('compile'):
            return
        self._model = runner.model.module if is_model_wrapper(runner.model) else runner.model

        def keep(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self._call = call_of(model, kwargs)

        def check_losses(model: nn.Module, args: Any, losses: Any) -> None:
            if model.training and isinstance(losses, dict):
                wrong = [name for name, loss in losses.items() if not finite(loss)]
                if wrong:
                    self._found(runner, ', '.join(wrong))
                self._meet(runner)

        def check_part(name: str) -> Callable[..., None]:
            def check(part: nn.Module, args: Any, output: Any) -> None:
                if not part.training and not finite(output):
                    self._found(runner, f'the output of {name}')
            return check

        self._handles = [part.register_forward_hook(check_part(name)) for name, part in self._model.named_children()]
        # FSDP gives no weights while it runs
        whole = runner.model if isinstance(runner.model, FullyShardedDataParallel) else self._model
        self._handles += [self._model.register_forward_pre_hook(keep, with_kwargs=True),
                          whole.register_forward_hook(check_losses)]

    def _unscaled(self, runner: Runner) -> list[OptimWrapper]:
        """The optimizer wrappers whose gradients are checked here."""
        wrapper = runner.optim_wrapper
        wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        return [one for one in wrappers if self._model and not hasattr(one, 'loss_scaler')]

    def _check_gradients(self, runner: Runner, wrappers: list[OptimWrapper]) -> None:
        groups = [group for wrapper in wrappers for group in wrapper.optimizer.param_groups]
        if not finite([p.grad for group in groups for p in group['params'] if p.grad is not None]):
            self._found(runner, 'the gradient')
        if wrappers:
            self._meet(runner)

    def _found(self, runner: Runner, what: str) -> None:
        """Stop; one of several processes notes it until they meet."""
        if get_world_size() > 1:
            self._wrong = self._wrong or (what, self._call)
            return
        self._remove()
        saved = _save(runner, weights_of(runner.model), self._call)
        culprit = f', {find_culprit(self._model, self._call)}' if self._model and self._call else ''
        raise NonFiniteError(f'step {runner.iter + 1}: {what} is not finite{culprit}; {saved}')

    def _meet(self, runner: Runner) -> None:
        """Stop all processes if one has found something; each must come here as often as the others."""
        if self._model is None or get_world_size() == 1:
            return
        wrong = torch.tensor(int(self._wrong is not None))
        all_reduce(wrong, 'max')
        if not wrong:
            return
        self._remove()
        weights = weights_of(runner.model)      # which all processes must ask for
        report = self._wrong and (get_rank(), self._wrong[0], _save(runner, weights, self._wrong[1]))
        # the launcher ends all when one has ended: not before the files are there
        (rank, what, saved), *others = filter(None, all_gather_object(report))
        more = f'; beside it: {len(others)} more of this step' if others else ''     # gradients are averaged
        raise NonFiniteError(f'step {runner.iter + 1}: {what} is not finite in process {rank}; {saved}{more}')

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _fewest(runner: Runner, loader: str) -> int:
    """Batches that every process has: the samplers of some data sets give them different numbers."""
    if get_world_size() == 1:
        return 0
    count = torch.tensor(len(getattr(runner, loader)))
    all_reduce(count, 'min')
    return int(count)


def _save(runner: Runner, weights: dict[str, Tensor], call: Call | None) -> str:
    """Half a sentence that says where the call is, or why not."""
    if call is None:
        return 'the model was not called as a whole, so that there is nothing to run again'
    rank, step = get_rank(), runner.iter + 1
    path = Path(runner.work_dir) / f'non_finite_step_{step}{f"_rank_{rank}" if rank else ""}.pth'
    try:
        torch.save({'state_dict': weights, 'call': call}, path)
    except Exception as error:      # whatever it is, what was found must be said, and the other processes wait for it
        path.unlink(missing_ok=True)
        return f'what the model was given cannot be saved in {path} for tools/replay.py: {error}'
    names = ', which names the module' if get_world_size() > 1 else ''
    return f'what the model was given, its weights and the generators are in {path}, for tools/replay.py{names}'


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, whole where FSDP shares it out; there, all processes must ask for it at once."""
    if isinstance(model, FullyShardedDataParallel):
        # on a CPU, offloaded ones would lie in memory that FSDP frees
        whole = FullStateDictConfig(offload_to_cpu=torch.cuda.is_available(), rank0_only=False)
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT, whole):
            return dict(model.state_dict())
    plain: nn.Module = model.module if is_model_wrapper(model) else model       # type: ignore[assignment]
    return dict(plain.state_dict())


def call_of(model: nn.Module, kwargs: dict[str, Any]) -> Call:
    """See `Call`; of a model that is about to be called with these arguments."""
    device = next(model.parameters()).device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    numpy = np.random.get_state()       # noqa: NPY002, the generator that augmentations use
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return Call(kwargs=kwargs, training=model.training, autocast=autocast,
                generators=(random.getstate(), numpy, torch.get_rng_state(), cuda))


def find_culprit(model: nn.Module, call: Call) -> str:
    """Run a call again and find where numbers stop being finite.

    Args:
        model: with the weights of the call; its buffers may change.
        call: of this process alone.

    Returns:
        Names the first module whose output is not finite although its inputs are, then the first parameter or
        output whose gradient is not; or says that all are finite this time.
    """
    found: list[str] = []
    handles: list[Any] = []

    def watch(name: str) -> Callable[..., None]:
        def check(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not found and not finite(output):
                wrong = [part for part, value in module.named_parameters(recurse=False) if not finite(value)]
                reason = f'whose {wrong[0]} is not finite' if wrong else (
                    'whose inputs are finite' if finite((args, kwargs)) else 'whose inputs are not finite')
                found.append(f'first in {name or "the model"} ({type(module).__name__}), {reason}')
            for tensor in tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(check_gradient(f'on the way back to the output of {name}'))
        return check

    def check_gradient(place: str) -> Callable[[Tensor], None]:
        def check(gradient: Tensor) -> None:
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
            torch.stack([part.float().sum() for name, loss in losses.items() if 'loss' in name
                         for part in tensors(loss)]).sum().backward()
    except Exception:       # numbers that are not finite may be too much for what comes after them
        if not found:
            raise
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else 'but finite when it was run again'


def repeat(model: nn.Module, call: Call) -> Any:
    """The output of a call that is made again."""
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


def tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def finite(value: Any) -> bool:
    """Whether every number in nested containers of tensors is finite."""
    parts = [torch.isfinite(part).all() for part in tensors(value)]
    return not parts or bool(torch.stack(parts).all())
