"""Checks of checkpoint files before any work."""
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmattn.errors import UsageError


def check_file(path: str | os.PathLike[str]) -> None:
    """Check that a local file is one that torch.save wrote, whole.

    Raises:
        UsageError: it is missing, empty, cut short, or something else.
    """
    if '://' in str(path):
        return
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f'checkpoint not found: {path.absolute()}')
    with path.open('rb') as file:
        start = file.read(16)
    if start.startswith(b'PK') and not zipfile.is_zipfile(path):
        raise UsageError(f'checkpoint {path.absolute()} is cut short: {path.stat().st_size} bytes without an end')
    if not start.startswith((b'PK', b'\x80')):      # zip, or the pickle of older torch versions
        raise UsageError(f'checkpoint {path.absolute()} is not a PyTorch file: it starts with {start!r}')


def is_pretrained(init_cfg: Mapping[str, Any]) -> bool:
    """Whether an `init_cfg` starts from a file: by the name of that initialization or by MMEngine's class."""
    kind = init_cfg.get('type')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2] in ('Pretrained', 'PretrainedInit')


def check_pretrained(node: Any) -> None:
    """Check every local file that an `init_cfg=dict(type='Pretrained', …)` below a config node names."""
    if isinstance(node, Mapping):
        if is_pretrained(node) and node.get('checkpoint'):
            check_file(node['checkpoint'])
        for value in node.values():
            check_pretrained(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            check_pretrained(value)
