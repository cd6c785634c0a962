"""Configs: reading them, and finding in them what commands ask for."""
from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmattn.errors import UsageError
from mmattn.openmmlab import DISTRIBUTIONS, mend_config_lookup, require, require_for

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.registry import Registry

SPLITS = ('train', 'val', 'test')
DENSE = ('mmdet', 'mmseg')      # libraries of dense prediction
LIBRARIES = (*DENSE, 'mmpretrain')
CONFIGS = Path(__file__).parent / '.mim/configs'        # as they are installed with the package


def config_files() -> dict[str, Path]:
    """The configs that come with the package, by their names, such as 'mask-rcnn_dat-t_fpn_1x_coco'."""
    return {path.stem: path for path in sorted(CONFIGS.glob('*/*.py')) if path.parent.name != '_base_'}


def find_config(config: str | os.PathLike[str]) -> str:
    """What MMEngine reads for a config.

    Args:
        config: a path; the name of a config that comes with the package; or a path inside a package, 'mmattn::…' or
            'mmdet::…'.

    Raises:
        UsageError: there is none. The message names those with the most similar names.
    """
    given = str(config)
    if Path(given).is_file() or ('::' in given and not given.startswith('mmattn::')):
        return given
    files, ours = config_files(), CONFIGS / given.removeprefix('mmattn::')
    path = ours if given.startswith('mmattn::') else files.get(given)
    if path and path.is_file():
        return str(path)
    near = get_close_matches(ours.stem, files, cutoff=0.8)
    hint = f"; configs of the package with such a name: {', '.join(near)}" if near else ''
    raise UsageError(f'config not found: {given if "::" in given else Path(given).absolute()}{hint}')


def read_config(config: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Config:
    """Read a config.

    Args:
        config: see `find_config`.
        options: settings to change, by keys with dots.

    Raises:
        UsageError: it is missing, does not parse, or needs a package that is not installed or of another version; an
            option that cannot be set.
    """
    from mmengine.config import Config
    mend_config_lookup()
    path = find_config(config)
    try:
        cfg = Config.fromfile(path)
        import_classes(dict(cfg))
        require_for(cfg.get('default_scope'))
    except ImportError as error:
        raise UsageError(f'{path}: {advice(error)}') from error
    except (OSError, SyntaxError) as error:
        raise UsageError(f'{path} cannot be read: {error}') from error
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if not modules_of(error)[-1].startswith('mmengine.'):        # but by the code of the config
            raise
        called = 'a class is called in it, which dict(type=CLASS, …) would name'     # where MMEngine says nothing
        raise UsageError(f'{path} cannot be read: {str(error) or called}') from error
    try:
        cfg.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UsageError(f'--cfg-options cannot be applied to {path}: {error}') from error
    return cfg


def import_classes(node: Any) -> None:
    """Import the classes that a config in Python names, which MMEngine puts off until each of them is built.

    Raises:
        ImportError: one cannot be imported.
    """
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ():
        import_classes(value)


def modules_of(error: BaseException) -> list[str]:
    """Names of the modules that an error came through, the one that raised it last."""
    return [str(frame.f_globals.get('__name__')) for frame, _ in traceback.walk_tb(error.__traceback__)]


def advice(error: ImportError) -> str:
    """What an error of an import says, or what to install where a module of OpenMMLab is missing."""
    try:
        require(*(module for module in DISTRIBUTIONS if module in str(error) and find_spec(module) is None))
    except ImportError as better:
        return str(better)
    return str(error)


def is_segmentation(cfg: Config) -> bool:
    """Whether a config is of mmseg."""
    return cfg.get('default_scope') == 'mmseg'


def is_detection(cfg: Config) -> bool:
    """Whether a config is of mmdet: of neither of the others, where it names the library in every type."""
    return not (is_segmentation(cfg) or is_classification(cfg))


def is_classification(cfg: Mapping[str, Any]) -> bool:
    """Whether a config is of mmpretrain."""
    return cfg.get('default_scope') == 'mmpretrain'


def check_scope(cfg: Config, what: str, libraries: Sequence[str] = DENSE) -> None:
    """Raise UsageError unless a config is of one of the libraries, the only ones whose configs can be `what`."""
    scope = cfg.get('default_scope')
    if scope not in libraries:
        known = f'{", ".join(libraries[:-1])} and {libraries[-1]}'
        raise UsageError(f'default_scope={scope!r}: only {known} configs can be {what}')


def datasets_below(node: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Every innermost data set below a data loader, or a data set that wraps others, with its key in the config."""
    wrapped = False
    for name in ('dataset', 'datasets'):
        inner = node.get(name)
        wrapped |= bool(inner)
        if isinstance(inner, Mapping):
            yield from datasets_below(inner, f'{key}.{name}')
        else:
            for i, one in enumerate(inner or ()):
                yield from datasets_below(one, f'{key}.{name}.{i}')
    if not wrapped:
        yield key, node


def datasets_with_pipeline(cfg: Mapping[str, Any], split: str) -> list[Any]:
    """The data sets of a split that say how their images are prepared."""
    return [node for _, node in datasets_below(cfg.get(f'{split}_dataloader') or {}, '') if node.get('pipeline')]


def evaluators(cfg: Mapping[str, Any], split: str) -> list[Any]:
    """The configs of the metrics of a split."""
    found = cfg.get(f'{split}_evaluator') or []
    if isinstance(found, Mapping) and 'metrics' in found:       # MMEngine's Evaluator around them
        found = found['metrics']
    return list(found) if isinstance(found, (list, tuple)) else [found]


def dataset_class(cfg: Mapping[str, Any], node: Mapping[str, Any]) -> Any:
    """The class of a data set; None where it is not registered."""
    from mmengine.registry import DATASETS
    kind, scope = node['type'], cfg.get('default_scope')
    return registered(DATASETS, f'{scope}.{kind}' if isinstance(kind, str) and '.' not in kind and scope else kind)


def registered(registry: Registry, kind: Any) -> Any:
    """What a config's `type` stands for, a name or already the class; None where a name is not registered."""
    return registry.get(kind) if isinstance(kind, str) else kind


def named(step: Mapping[str, Any]) -> str:
    """The class name of a config's `type`, which may be a class, and may have a scope before its name."""
    kind = step.get('type', '')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]
