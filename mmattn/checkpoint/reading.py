"""Read checkpoint files of any origin without running code that they carry."""
import re
from collections import OrderedDict

import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason."""


# Containers that training scripts leave in their files beside the weights. An OrderedDict is built in their place;
# the classes themselves are neither needed nor run.
CONTAINERS = ('yacs.config.CfgNode', 'argparse.Namespace', 'addict.addict.Dict', 'mmcv.utils.config.ConfigDict',
              'mmengine.config.config.ConfigDict')


def read_checkpoint(path):
    """The content of a checkpoint file, on the CPU.

    Args:
        path (str | Path): a file, or an http(s) address to download it from.

    Returns:
        dict: whatever was saved; see `state_dict_of`.

    Raises:
        CheckpointError: there is no such file, it is no checkpoint, or it holds more than tensors and plain values.
    """
    allowed = [(OrderedDict, name) for name in CONTAINERS]
    try:
        with torch.serialization.safe_globals(allowed):
            if str(path).startswith(('http://', 'https://')):
                content = torch.hub.load_state_dict_from_url(str(path), map_location='cpu', weights_only=True)
            else:
                content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f'{path} does not exist') from None
    except Exception as error:      # bytes that are no pickle can fail at any instruction
        foreign = re.search(r'GLOBAL ([\w.]+)', str(error))
        if foreign:
            raise CheckpointError(f'{path} is refused: it holds {foreign[1]}, and reading that would run code. Ask for '
                                  'a file with tensors only, or save one where you trust it') from None
        reason = (str(error).strip().splitlines() or ['empty'])[0]
        raise CheckpointError(f'{path} is no checkpoint ({type(error).__name__}: {reason})') from None
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors')
    return content


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
