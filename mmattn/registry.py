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
HOOKS = Registry('hook', parent=mmengine_registry.HOOKS, scope='mmattn', locations=['mmattn.visualization.hook'])
TRANSFORMS = Registry('transform', parent=mmengine_registry.TRANSFORMS, scope='mmattn',
                      locations=['mmattn.datasets.loading'])
