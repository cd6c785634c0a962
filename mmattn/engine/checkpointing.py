"""Checkpoints that survive: written whole, removed late, checked before a training goes on from one."""
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmattn.checkpoint.comparing import compare
from mmattn.errors import CheckpointError
from mmattn.registry import HOOKS


@register_backend('whole')
class WholeFiles(LocalBackend):
    """Local files that are whole or absent, even if the process or the machine stops while one is written."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.name}.part')
        try:
            with part.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


class LateRemoval:
    """A file backend whose removals wait for `carry_out`."""

    def __init__(self, backend: LocalBackend) -> None:
        self.backend = backend
        self.waiting: list[tuple[Callable[[str], None], str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['backend'], name)

    def remove(self, path: str) -> None:
        self.waiting.append((self.backend.remove, path))

    def rmtree(self, path: str) -> None:
        self.waiting.append((self.backend.rmtree, path))

    def carry_out(self) -> None:
        while self.waiting:
            remove, path = self.waiting.pop()
            remove(path)


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's hook, which loses no checkpoint: files are written whole, and those beyond `max_keep_ckpts`, or a best
    one that is no longer, are removed after the new one stands.

    Raises:
        CheckpointError: a file cannot be written, with the reason; earlier ones are as they were.
    """

    file_backend: Any = None        # until a training starts

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get('file_client_args'):
            kwargs['backend_args'] = kwargs.get('backend_args') or dict(backend='whole')
        super().__init__(*args, **kwargs)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.file_backend = LateRemoval(self.file_backend)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._save(super().after_train_iter, runner, batch_idx, data_batch, outputs)

    def after_train_epoch(self, runner: Runner) -> None:
        self._save(super().after_train_epoch, runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        self._save(super().after_val_epoch, runner, metrics)

    def _save(self, save: Callable[..., None], *args: Any) -> None:
        try:
            save(*args)
        except OSError as error:
            raise CheckpointError(f'cannot save a checkpoint in {self.out_dir}: {error.strerror or error}; those saved '
                                  'before are as they were, and --resume goes on from the latest') from error
        if self.file_backend:
            self.file_backend.carry_out()


def saved_checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints that a training left in its work directory, latest first; they exist.

    Args:
        folder: holds files epoch_N.pth or iter_N.pth, and 'last_checkpoint', which may name one elsewhere.
    """
    pointer = Path(folder) / 'last_checkpoint'
    text = pointer.read_text().strip() if pointer.is_file() else ''
    last = [Path(text)] if text else []
    numbered: dict[Path, int] = {}
    for room in {pointer.parent.resolve(), *(path.parent.resolve() for path in last)}:
        for path in room.glob('*.pth'):
            number = re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name)
            if number:
                numbered[path] = int(number[1])
    found = sorted(numbered, key=numbered.__getitem__, reverse=True)
    return [path for path in last if path.is_file() and path.resolve() not in found] + found


def check_resumable(content: Mapping[str, Any], path: str | Path) -> None:
    """Raise CheckpointError unless a checkpoint has what a training goes on from."""
    missing = [name for name in ('state_dict', 'optimizer', 'message_hub', 'meta') if name not in content]
    if missing:
        raise CheckpointError(f'{path} cannot be resumed from: it holds no {", ".join(missing)}; load_from takes such '
                              'weights')


def check_same_model(content: Mapping[str, Any], model: nn.Module, path: str | Path) -> None:
    """Raise CheckpointError unless the parameters of a checkpoint have the names and shapes of a model's."""
    plain: nn.Module = model.module if is_model_wrapper(model) else model       # type: ignore[assignment]
    found = compare(content['state_dict'], plain)
    if not found.is_same:
        raise CheckpointError(f'{path} is of another model: {found}')
