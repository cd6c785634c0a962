"""Read checkpoint files of any origin without running code that they carry."""
import re
from collections import OrderedDict
from importlib.util import find_spec
from pickle import UnpicklingError

import numpy as np
import torch

from mmattn.errors import CheckpointError

# Containers that training scripts leave in their files beside the weights. An OrderedDict is built in their place;
# the classes themselves are neither needed nor run.
CONTAINERS = ('yacs.config.CfgNode', 'argparse.Namespace', 'addict.addict.Dict', 'mmcv.utils.config.ConfigDict',
              'mmengine.config.config.ConfigDict')


def read_checkpoint(path, map_location='cpu', samples=False):
    """The content of a checkpoint file.

    Args:
        path (str | Path): a file, or an http(s) address to download it from.
        map_location (str | torch.device | Callable): where tensors go.
        samples (bool): allow data samples of mmdet and mmseg.

    Returns:
        dict: whatever was saved; see `state_dict_of`.

    Raises:
        CheckpointError: there is no such file, it is no checkpoint, or it holds more than tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(_allowed() + (_data_samples() if samples else [])):
            if str(path).startswith(('http://', 'https://')):
                content = torch.hub.load_state_dict_from_url(str(path), map_location=map_location, weights_only=True)
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
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors')
    return content


def _allowed():
    """What a file may name beside tensors and plain values: containers, arrays, and MMEngine's logs of a training."""
    core = np._core if hasattr(np, '_core') else np.core
    allowed = [(OrderedDict, name) for name in CONTAINERS]
    allowed += [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in '?bBhHiIlLqQefd')]
    for function in (core.multiarray._reconstruct, core.multiarray.scalar):
        allowed += [(function, f'numpy.{room}.multiarray.{function.__name__}') for room in ('_core', 'core')]
    if find_spec('mmengine'):
        from mmengine.logging import HistoryBuffer
        allowed += [HistoryBuffer, (_statistic, 'builtins.getattr')]
    return allowed


def _data_samples():
    """What holds ground truth; reading it fills attributes and runs nothing."""
    from mmengine.structures import InstanceData, PixelData
    allowed = [InstanceData, PixelData, (bytes, 'builtins.bytes')]
    if find_spec('mmdet'):
        from mmdet.structures import DetDataSample
        from mmdet.structures.bbox import HorizontalBoxes
        from mmdet.structures.mask import BitmapMasks, PolygonMasks
        allowed += [DetDataSample, HorizontalBoxes, BitmapMasks, PolygonMasks]
    if find_spec('mmseg'):
        from mmseg.structures import SegDataSample
        allowed.append(SegDataSample)
    return allowed


def _statistic(owner, name):
    """A method of MMEngine's logs, which files name with `getattr`; no attribute of anything else."""
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'GLOBAL builtins.getattr of {owner!r}, {name!r}')
    return getattr(owner, name)


def state_dict_of(content, path='the checkpoint'):
    """The parameters in a checkpoint: under 'state_dict', 'model' or 'module', or the dict itself, without the
    'module.' that data-parallel training puts before names.

    Raises:
        CheckpointError: there is no dict of tensors.
    """
    for name in ('state_dict', 'model', 'module'):
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    state = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise CheckpointError(f'{path} holds no tensors; its entries are: {", ".join(map(str, content))}')
    if all(key.startswith('module.') for key in state):
        state = {key.removeprefix('module.'): value for key, value in state.items()}
    return state
