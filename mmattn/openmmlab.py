"""The OpenMMLab packages as they are installed here: present, of a version that works, and found under the right name.

They come in two distributions with the same import names: the maintained `onedl-*` packages and the
classic ones. Either will do; this module is the only place that cares which.
"""
import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

# Import name -> the distributions that provide it, the maintained one first, each with the versions that work. The
# extras 'onedl' and 'openmmlab' in pyproject.toml say the same.
DISTRIBUTIONS = {
    'mmengine': {'onedl-mmengine': '>=0.10.12', 'mmengine': '>=0.10.7'},
    'mmcv': {'onedl-mmcv': '>=2.3.6', 'mmcv': '>=2.1,<2.2'},
    'mmdet': {'onedl-mmdetection': '>=3.5.1', 'mmdet': '>=3.3'},
    'mmseg': {'onedl-mmsegmentation': '>=1.4.2', 'mmsegmentation': '>=1.2.2'},
}


def installed_distribution(module: str) -> str | None:
    """Name of the distribution that provides an OpenMMLab module.

    Args:
        module: an import name, one of `DISTRIBUTIONS`.

    Returns:
        For example 'onedl-mmsegmentation'; None where no distribution provides the module.
    """
    return next((name for name in DISTRIBUTIONS[module] if installed_version(name)), None)


def installed_version(distribution: str) -> str | None:
    """Version of a distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def require(*modules: str) -> None:
    """Check that OpenMMLab modules can be imported, in versions that work.

    A module of no distribution, such as a checkout on the path, is taken as it is.

    Args:
        *modules: import names, for example 'mmengine', 'mmdet'.

    Raises:
        ImportError: one sentence that names what is missing or of another version and what to install.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(f"mmattn needs {' and '.join(missing)} for this; install "
                          "'mmattn[onedl]' (maintained packages) or 'mmattn[openmmlab]' (classic packages).")
    for module in modules:
        distribution = installed_distribution(module)
        if distribution:
            _check_version(distribution, DISTRIBUTIONS[module][distribution])


def require_for(scope: str | None) -> None:
    """Check what a config needs, by its `default_scope`.

    Args:
        scope: 'mmdet' or 'mmseg', which need mmcv too; anything else needs MMEngine alone.

    Raises:
        ImportError: as `require`.
    """
    require('mmengine', *(('mmcv', scope) if scope in ('mmdet', 'mmseg') else ()))


def _check_version(distribution: str, needed: str) -> None:
    from packaging.specifiers import SpecifierSet  # here: it comes with MMEngine
    found = version(distribution)
    if not SpecifierSet(needed).contains(found, prereleases=True):
        extra = 'onedl' if distribution.startswith('onedl-') else 'openmmlab'
        raise ImportError(f"mmattn needs {distribution}{needed}, found {found}; install 'mmattn[{extra}]'.")


def choose_checkpoint_reading(trust: bool = False) -> None:
    """Let MMEngine read checkpoints without running code that they carry, whatever its version does by itself: some
    fall back to running it, and MMEngine 0.10.7 cannot read its own files at all since PyTorch 2.6.

    Args:
        trust: True reads files as PyTorch did before, running their code.
    """
    import torch
    from mmengine.runner import checkpoint

    from mmattn.checkpoint.reading import read_checkpoint

    def read(path: str, map_location: Any = None, **options: Any) -> Any:
        path = os.path.expanduser(path)
        if not trust:
            return read_checkpoint(path, map_location)
        if path.startswith(('http://', 'https://')):
            return torch.hub.load_state_dict_from_url(path, map_location=map_location, weights_only=False)
        return torch.load(path, map_location=map_location, weights_only=False)

    checkpoint.CheckpointLoader.register_scheme(['', 'http://', 'https://'], read, force=True)
    checkpoint.load_from_http = read        # what the other schemes end in


def mend_config_lookup() -> None:
    """Let MMEngine find `mmattn::…`, `mmdet::…` and `mmseg::…`, as a base of a config and in `Config.fromfile`.

    MMEngine has a table of the packages that it knows, and looks the libraries up under the names of their classic
    distributions ('mmsegmentation'). Where such a one is not installed, the import name, which it accepts as well,
    takes its place. It gives the types of a base the name of its package as their scope; those of ours are of the
    library that `default_scope` names.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed
    if Config._get_cfg_path.__module__ == __name__:     # done before
        return
    for module in ('mmattn', 'mmdet', 'mmseg'):
        if not is_installed(MODULE2PACKAGE.setdefault(module, module)):
            MODULE2PACKAGE[module] = module
    look_up, read = Config._get_cfg_path, Config.fromfile

    def without_our_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = look_up(cfg_path, filename)
        return path, None if scope == 'mmattn' else scope

    def fromfile(filename: Any, *args: Any, **options: Any) -> Any:
        return read(look_up(filename, '')[0] if '::' in str(filename) else filename, *args, **options)

    Config._get_cfg_path = staticmethod(without_our_scope)
    Config.fromfile = staticmethod(fromfile)
