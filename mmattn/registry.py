"""Registries of the scope 'mmattn', children of MMEngine's.

MMEngine imports this module by itself when a config says `type='mmattn.…'`, so a detector or a segmentor
finds our modules without an import of its own.
"""
from mmattn.openmmlab import mend_config_lookup, require

require('mmengine')

from mmengine import registry as mmengine_registry  # noqa: E402
from mmengine.registry import Registry  # noqa: E402

mend_config_lookup()

MODELS = Registry('model', parent=mmengine_registry.MODELS, scope='mmattn',
                  locations=['mmattn.backbones', 'mmattn.necks'])
FUNCTIONS = Registry('function', parent=mmengine_registry.FUNCTIONS, scope='mmattn',
                     locations=['mmattn.engine.sharding'])
HOOKS = Registry('hook', parent=mmengine_registry.HOOKS, scope='mmattn',
                 locations=['mmattn.engine', 'mmattn.visualization.hook'])
DATA_SAMPLERS = Registry('data sampler', parent=mmengine_registry.DATA_SAMPLERS, scope='mmattn',
                         locations=['mmattn.engine'])
OPTIM_WRAPPERS = Registry('optim wrapper', parent=mmengine_registry.OPTIM_WRAPPERS, scope='mmattn',
                          locations=['mmattn.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry('optim wrapper constructor', scope='mmattn', locations=['mmattn.engine'],
                                      parent=mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS)
TRANSFORMS = Registry('transform', parent=mmengine_registry.TRANSFORMS, scope='mmattn',
                      locations=['mmattn.datasets.loading'])
