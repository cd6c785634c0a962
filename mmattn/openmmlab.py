"""The OpenMMLab packages as they are installed here: present, new enough, and found under the right name.

They come in two distributions with the same import names: the maintained `onedl-*` packages and the
classic ones. Either will do; this module is the only place that cares which.
"""
import os
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# import name -> (oldest version that works, onedl distribution, classic distribution)
DISTRIBUTIONS = {
    'mmengine': ('0.10', 'onedl-mmengine', 'mmengine'),
    'mmcv': ('2.0', 'onedl-mmcv', 'mmcv'),
    'mmdet': ('3.0', 'onedl-mmdetection', 'mmdet'),
    'mmseg': ('1.0', 'onedl-mmsegmentation', 'mmsegmentation'),
}


def installed_distribution(module):
    """Name of the distribution that provides an OpenMMLab module.

    Args:
        module (str): an import name, one of `DISTRIBUTIONS`.

    Returns:
        str | None: for example 'onedl-mmsegmentation'; None where no distribution provides the module.
    """
    for name in DISTRIBUTIONS[module][1:]:
        try:
            version(name)
            return name
        except PackageNotFoundError:
            continue
    return None


def require(*modules):
    """Check that OpenMMLab modules can be imported and are new enough.

    Args:
        *modules (str): import names, for example 'mmengine', 'mmdet'.

    Raises:
        ImportError: one sentence that names what is missing or too old and what to install.
    """
    missing = [m for m in modules if find_spec(m) is None]
    if missing:
        raise ImportError(f"mmattn needs {' and '.join(missing)} for this; install "
                          "'mmattn[onedl]' (maintained packages) or 'mmattn[openmmlab]' (classic packages).")
    for module in modules:
        oldest, distribution = DISTRIBUTIONS[module][0], installed_distribution(module)
        if distribution and _numbers(version(distribution)) < _numbers(oldest):
            raise ImportError(f'mmattn needs {module} {oldest} or newer, found {distribution} {version(distribution)}; '
                              f"upgrade it with 'mmattn[onedl]' or 'mmattn[openmmlab]'.")


def _numbers(text):
    return tuple(int(n) for n in re.findall(r'\d+', text)[:2])


def choose_checkpoint_reading(trust=False):
    """Let MMEngine read checkpoints without running code that they carry, whatever its version does by itself: some
    fall back to running it, and MMEngine 0.10.7 cannot read its own files at all since PyTorch 2.6.

    Args:
        trust (bool): True reads files as PyTorch did before, running their code.
    """
    import torch
    from mmengine.runner import checkpoint

    from mmattn.checkpoint.reading import read_checkpoint

    def read(path, map_location=None, **options):
        path = os.path.expanduser(path)
        if not trust:
            return read_checkpoint(path, map_location)
        if path.startswith(('http://', 'https://')):
            return torch.hub.load_state_dict_from_url(path, map_location=map_location, weights_only=False)
        return torch.load(path, map_location=map_location, weights_only=False)

    checkpoint.CheckpointLoader.register_scheme(['', 'http://', 'https://'], read, force=True)
    checkpoint.load_from_http = read        # what the other schemes end in


def mend_config_lookup():
    """Let `mmseg::…` in a config find mmseg, whichever distribution provides it.

    MMEngine looks a config prefix up under the classic distribution's name ('mmsegmentation'). Where that one is
    not installed, the import name, which it accepts as well, takes its place in MMEngine's table.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed
    for module in ('mmdet', 'mmseg'):
        if not is_installed(MODULE2PACKAGE[module]):
            MODULE2PACKAGE[module] = module
