"""Read checkpoint files of any origin without running code that they carry."""
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmattn.errors import CheckpointError

# Containers that training scripts leave in their files beside the weights. An OrderedDict is built in their place;
# the classes themselves are neither needed nor run.
CONTAINERS = ('yacs.config.CfgNode', 'argparse.Namespace', 'addict.addict.Dict', 'mmcv.utils.config.ConfigDict',
              'mmengine.config.config.ConfigDict')

WEIGHTS = 'model', 'module'        # keys of the parameters in files of other programs than MMEngine
MapLocation = str | torch.device | Callable[..., Any] | None


def read_checkpoint(path: str | os.PathLike[str], map_location: MapLocation = 'cpu',
                    samples: bool = False) -> dict[str, Any]:
    """The content of a checkpoint file.

    Args:
        path: a file, '~' for the home folder in front, or an http(s) address to download it from.
        map_location: where tensors go.
        samples: allow data samples of mmdet and mmseg.

    Returns:
        whatever was saved; see `state_dict_of`.

    Raises:
        CheckpointError: there is no such file, it is no checkpoint, or it holds more than tensors and plain values.
    """
    path = os.path.expanduser(path)
    try:
        with torch.serialization.safe_globals(_allowed() + (_data_samples() if samples else [])):
            if path.startswith(('http://', 'https://')):
                content = torch.hub.load_state_dict_from_url(path, map_location=map_location, weights_only=True)
            else:
                content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f'{path} does not exist') from None
    except Exception as error:      # bytes that are no pickle can fail at any instruction
        foreign = re.search(r'GLOBAL ([\w.]+)', str(error))
        if foreign:
            raise CheckpointError(f'{path} is refused: it holds {foreign[1]}, and reading that would run code. Ask for '
                                  'a file with tensors only; tools/train.py and test.py run the code of one that you '
                                  'trust with --trust-checkpoint') from None
        reason = (str(error).strip().splitlines() or ['empty'])[0]
        raise CheckpointError(f'{path} is no checkpoint ({type(error).__name__}: {reason})') from None
    return _checked(content, path)


def read_as_chosen(path: str) -> dict[str, Any]:
    """The content of a checkpoint file, read as MMEngine was told to, by `mmattn.openmmlab.choose_checkpoint_reading`
    or by a program that registered a reader; by `read_checkpoint` where MMEngine has its own, which runs code in some
    versions.
    """
    from mmengine.runner import CheckpointLoader
    reader = CheckpointLoader._get_checkpoint_loader('')        # of files; the others end in it
    if reader.__module__.partition('.')[0] == 'mmengine':
        return read_checkpoint(path)
    return _checked(CheckpointLoader.load_checkpoint(path, map_location='cpu'), path)


def _checked(content: object, path: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors')
    return content


def _allowed() -> list[Any]:
    """What a file may name beside tensors and plain values: containers, arrays, and MMEngine's logs of a training."""
    core = np._core if hasattr(np, '_core') else np.core
    allowed: list[Any] = [(OrderedDict, name) for name in CONTAINERS]
    allowed += [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in '?bBhHiIlLqQefd')]
    for function in (core.multiarray._reconstruct, core.multiarray.scalar):
        allowed += [(function, f'numpy.{room}.multiarray.{function.__name__}') for room in ('_core', 'core')]
    if find_spec('mmengine'):
        from mmengine.logging import HistoryBuffer
        allowed += [HistoryBuffer, (_statistic, 'builtins.getattr')]
    return allowed


def _data_samples() -> list[Any]:
    """What holds ground truth; reading it fills attributes and runs nothing."""
    from mmengine.structures import InstanceData, PixelData
    allowed: list[Any] = [InstanceData, PixelData, (bytes, 'builtins.bytes')]
    if find_spec('mmdet'):
        from mmdet.structures import DetDataSample
        from mmdet.structures.bbox import HorizontalBoxes
        from mmdet.structures.mask import BitmapMasks, PolygonMasks
        allowed += [DetDataSample, HorizontalBoxes, BitmapMasks, PolygonMasks]
    if find_spec('mmseg'):
        from mmseg.structures import SegDataSample
        allowed.append(SegDataSample)
    return allowed


def _statistic(owner: object, name: str) -> Any:
    """A method of MMEngine's logs, which files name with `getattr`; no attribute of anything else."""
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'GLOBAL builtins.getattr of {owner!r}, {name!r}')
    return getattr(owner, name)


def named_as_ours(content: Any) -> Any:
    """The content of a checkpoint, with its parameters under 'state_dict', where MMEngine looks for them; files of
    classifiers have them under 'model'."""
    if isinstance(content, dict) and not isinstance(content.get('state_dict'), dict):
        for name in WEIGHTS:
            if isinstance(content.get(name), dict):
                return {**content, 'state_dict': content[name]}
    return content


def state_dict_of(content: Mapping[str, Any], path: str | os.PathLike[str] = 'the checkpoint') -> dict[str, Tensor]:
    """The parameters in a checkpoint: under 'state_dict', 'model' or 'module', or the dict itself, without the
    'module.' that data-parallel training puts before names.

    Raises:
        CheckpointError: there is no dict of tensors.
    """
    for name in ('state_dict', *WEIGHTS):
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f'{path} holds no tensors; its entries are: {", ".join(map(str, content))}')
    if all(key.startswith('module.') for key in state):
        state = {key.removeprefix('module.'): value for key, value in state.items()}
    return state
