"""The OpenMMLab packages as they are installed here: present, of a version that works, and found under the right name.

They come in two distributions with the same import names: the maintained `onedl-*` packages and the
classic ones. Either will do; this module is the only place that cares which.
"""
import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

# Import name -> the distributions that provide it, the maintained one first, each with the versions that work. The
# extras in pyproject.toml say the same.
DISTRIBUTIONS = {
    'mmengine': {'onedl-mmengine': '>=0.10.12', 'mmengine': '>=0.10.7'},
    'mmcv': {'onedl-mmcv': '>=2.3.6', 'mmcv': '>=2.1,<2.2'},
    'mmdet': {'onedl-mmdetection': '>=3.5.1', 'mmdet': '>=3.3'},
    'mmseg': {'onedl-mmsegmentation': '>=1.4.2', 'mmsegmentation': '>=1.2.2'},
    'mmpretrain': {'onedl-mmpretrain': '>=1.3.6', 'mmpretrain': '>=1.2'},
}
EXTRAS = {'mmpretrain': ('pretrain', 'openmmlab-pretrain')}     # (maintained, classic); of the others those below
COMMON_EXTRAS = 'onedl', 'openmmlab'


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
        maintained, classic = (','.join(dict.fromkeys(kinds)) for kinds in zip(*map(_extras, missing)))
        raise ImportError(f"mmattn needs {' and '.join(missing)} for this; install "
                          f"'mmattn[{maintained}]' (maintained packages) or 'mmattn[{classic}]' (classic packages).")
    for module in modules:
        distribution = installed_distribution(module)
        if distribution:
            _check_version(module, distribution)


def require_for(scope: str | None) -> None:
    """Check what a config needs, by its `default_scope`.

    Args:
        scope: 'mmdet', 'mmseg' or 'mmpretrain', which need mmcv too; anything else needs MMEngine alone.

    Raises:
        ImportError: as `require`.
    """
    require('mmengine', *(('mmcv', scope) if scope in ('mmdet', 'mmseg', 'mmpretrain') else ()))
    if scope == 'mmpretrain':
        import_mmpretrain()


def _extras(module: str) -> tuple[str, str]:
    """The extras of this package that bring a module, with the maintained and with the classic packages."""
    return EXTRAS.get(module, COMMON_EXTRAS)


def _check_version(module: str, distribution: str) -> None:
    from packaging.specifiers import SpecifierSet  # here: it comes with MMEngine
    found, needed = version(distribution), DISTRIBUTIONS[module][distribution]
    if not SpecifierSet(needed).contains(found, prereleases=True):
        extra = _extras(module)[not distribution.startswith('onedl-')]
        raise ImportError(f"mmattn needs {distribution}{needed}, found {found}; install 'mmattn[{extra}]'.")


def import_mmpretrain() -> None:
    """Import mmpretrain, without torchvision where there is none that works with this PyTorch.

    mmpretrain imports torchvision for a few transforms of its own and to register those of torchvision; no published
    classifier needs any. For the time of the import, empty modules take its place; what would need it says so when it
    is used: transforms 'torchvision/…', MAERandomResizedCrop, images of PIL in PackInputs, visual grounding.
    """
    if 'mmpretrain.datasets' in sys.modules:
        return
    try:
        import_module('torchvision.transforms')
        modules = {}
    except (ImportError, OSError, RuntimeError):    # none, or one that was built for another PyTorch
        modules = _stand_ins()
    sys.modules.update(modules)
    try:
        for name in ('datasets', 'engine', 'evaluation', 'models', 'structures', 'visualization'):
            import_module(f'mmpretrain.{name}')
    finally:
        for name in modules:        # others may look whether there is one
            del sys.modules[name]


def _stand_ins() -> dict[str, ModuleType]:
    """Modules named as those of torchvision that mmpretrain imports, with what it names while it is imported."""
    names = ['', '.ops', '.ops.boxes', '.transforms', '.transforms.functional', '.transforms.transforms']
    modules = {f'torchvision{name}': ModuleType(f'torchvision{name}') for name in names}
    for name, module in modules.items():
        owner, _, child = name.rpartition('.')
        if owner:
            setattr(modules[owner], child, module)

    class RandomResizedCrop:
        def __init__(self, *args: Any, **options: Any) -> None:
            raise ImportError('this transform needs torchvision, and there is none that works with this PyTorch')

    kinds = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')
    modules['torchvision.transforms'].RandomResizedCrop = RandomResizedCrop     # type: ignore[attr-defined]
    modules['torchvision.transforms.transforms'].InterpolationMode = SimpleNamespace(      # type: ignore[attr-defined]
        **{kind.upper(): kind for kind in kinds})
    return modules


def choose_checkpoint_reading(trust: bool = False) -> None:
    """Let MMEngine read checkpoints without running code that they carry, whatever its version does by itself: some
    fall back to running it, and MMEngine 0.10.7 cannot read its own files at all since PyTorch 2.6.

    Args:
        trust: True reads files as PyTorch did before, running their code.
    """
    import torch
    from mmengine.runner import checkpoint

    from mmattn.checkpoint.reading import named_as_ours, read_checkpoint

    def read(path: str, map_location: Any = None, **options: Any) -> Any:
        path = os.path.expanduser(path)
        if not trust:
            content: Any = read_checkpoint(path, map_location)
        elif path.startswith(('http://', 'https://')):
            content = torch.hub.load_state_dict_from_url(path, map_location=map_location, weights_only=False)
        else:
            content = torch.load(path, map_location=map_location, weights_only=False)
        return named_as_ours(content)

    checkpoint.CheckpointLoader.register_scheme(['', 'http://', 'https://'], read, force=True)
    checkpoint.load_from_http = read        # what the other schemes end in


def mend_config_lookup() -> None:
    """Let MMEngine find `mmattn::…`, and those of the libraries, as a base of a config and in `Config.fromfile`.

    MMEngine has a table of the packages that it knows, and looks the libraries up under the names of their classic
    distributions ('mmsegmentation'). Where such a one is not installed, the import name, which it accepts as well,
    takes its place. It gives the types of a base the name of its package as their scope; those of ours are of the
    library that `default_scope` names. And it reads the package's whole index of models for each base, which takes
    longer than all the rest; a file of just that path is taken without.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import get_installed_path, is_installed
    if Config._get_cfg_path.__module__ == __name__:     # done before
        return
    for module in ('mmattn', 'mmdet', 'mmseg', 'mmpretrain'):
        if not is_installed(MODULE2PACKAGE.setdefault(module, module)):
            MODULE2PACKAGE[module] = module
    by_index, read = Config._get_cfg_path, Config.fromfile

    def look_up(cfg_path: str, filename: str) -> tuple[str, str | None]:
        scope, _, name = cfg_path.rpartition('::')
        package = MODULE2PACKAGE.get(scope, scope)
        if scope and is_installed(package):
            path = os.path.join(get_installed_path(package), '.mim', 'configs', name)
            if os.path.isfile(path):
                return path, scope
        return by_index(cfg_path, filename)

    def without_our_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = look_up(cfg_path, filename)
        return path, None if scope == 'mmattn' else scope

    def fromfile(filename: Any, *args: Any, **options: Any) -> Any:
        return read(look_up(filename, '')[0] if '::' in str(filename) else filename, *args, **options)

    Config._get_cfg_path = staticmethod(without_our_scope)
    Config.fromfile = staticmethod(fromfile)
