"""Read checkpoint files of any origin without running code that they carry."""
import pickle

import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason."""


class _Inert(dict):
    """Stands for a container class that published files hold beside their weights; its content is not used."""

    def __setstate__(self, state):
        pass


# Classes that training scripts leave in their files. The unpickler gets the stand-in, never the class itself.
INERT = ('yacs.config.CfgNode', 'argparse.Namespace', 'addict.addict.Dict', 'mmcv.utils.config.ConfigDict',
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
    allowed = [(_Inert, name) for name in INERT]
    try:
        with torch.serialization.safe_globals(allowed):
            if str(path).startswith(('http://', 'https://')):
                content = torch.hub.load_state_dict_from_url(str(path), map_location='cpu', weights_only=True)
            else:
                content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f'{path} does not exist') from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'{path} is refused: reading it would run code that it carries, or it is no checkpoint. '
                              f'{_reason(error)}') from None
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f'{path} is no checkpoint: {_reason(error)}') from None
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors')
    return content


def _reason(error):
    """The line of PyTorch's message that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if 'GLOBAL' in line or 'global' in line), lines[0] if lines else repr(error))


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
