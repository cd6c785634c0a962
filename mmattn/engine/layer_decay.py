"""Learning rates of backbones: lower than those of the heads, and the lower the deeper a layer lies below them."""
from collections.abc import Callable
from inspect import signature
from numbers import Real
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmattn.checks import check_choice
from mmattn.errors import ArgumentError, some
from mmattn.registry import OPTIM_WRAPPER_CONSTRUCTORS

OURS = 'decay_rate', 'decay_type', 'num_layers', 'backbone_lr_mult'
MMENGINES = ('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult',
             'dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate')
TYPES = 'layer_wise', 'stage_wise'
ASKED = "get_layer_depth(param_name, prefix='') -> (depth, number of layers)"
FSDP = '_fsdp_wrapped_module.'                          # in the names of parameters below a part that FSDP wraps


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor with rates that fall with the distance from the heads: the stem has depth 0, then each
    block one more, and a parameter of depth d in a backbone learns with
    lr * backbone_lr_mult * decay_rate^(D - d), where D is the depth of the heads.

    A backbone knows the depth of its parameters (`Pyramid.get_layer_depth`; mmpretrain's backbones have it too); what
    lies outside of backbones learns with the full rate. Everything else of MMEngine's constructor holds, and its
    factors are multiplied with these. `custom_keys=dict(backbone=dict(lr_mult=0.1))` of MMEngine does more than
    `backbone_lr_mult=0.1`: what a key finds is left alone by `norm_decay_mult` and its like, so that norms decay.

    Args:
        optim_wrapper_cfg: of the wrapper, with the `optimizer`, whose `lr` is that of the heads.
        paramwise_cfg: `decay_rate`, above 0 and up to 1, or `backbone_lr_mult`, above 0, or both, 1 by default;
            `decay_type`, 'layer_wise' (the default) or 'stage_wise', where a stage is one step; `num_layers` only to
            have it compared with the blocks (or stages) of the backbone; and MMEngine's keys.

    Raises:
        ArgumentError: a key that is unknown, neither of both, a rate, a factor or a type that does not fit, an
            optimizer without `lr`; when called, a model in which no backbone knows its depth, or another number of
            layers than `num_layers`.

    Example:
        In a config of mmdet or mmseg::

            optim_wrapper = dict(constructor='mmattn.LayerDecayOptimizerConstructor',
                                 paramwise_cfg=dict(decay_rate=0.9, norm_decay_mult=0.))
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        settings = self.paramwise_cfg
        unknown = [key for key in settings if key not in OURS + MMENGINES]
        if unknown:
            raise ArgumentError(f'paramwise_cfg has no {some(unknown)}; there is {", ".join(OURS + MMENGINES)}')
        if 'decay_rate' not in settings and 'backbone_lr_mult' not in settings:
            raise ArgumentError('paramwise_cfg needs decay_rate or backbone_lr_mult, which this constructor is for')
        self.decay_rate, self.backbone_lr_mult = settings.get('decay_rate', 1), settings.get('backbone_lr_mult', 1)
        if not isinstance(self.decay_rate, Real) or not 0 < float(self.decay_rate) <= 1:
            raise ArgumentError(f'paramwise_cfg.decay_rate={self.decay_rate!r} must be above 0 and at most 1')
        if not isinstance(self.backbone_lr_mult, Real) or not 0 < float(self.backbone_lr_mult) < float('inf'):
            raise ArgumentError(f'paramwise_cfg.backbone_lr_mult={self.backbone_lr_mult!r} must be above 0')
        self.decay_type = settings.get('decay_type', 'layer_wise')
        check_choice('paramwise_cfg.decay_type', self.decay_type, TYPES)
        if self.base_lr is None:
            raise ArgumentError('optimizer.lr is needed, of which layers learn with a part')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        wrapper = super().__call__(model)
        rates = [group['lr'] for group in wrapper.optimizer.param_groups]
        slower = f', {self.backbone_lr_mult:g} of it in backbones' * (self.backbone_lr_mult != 1)
        print_log(f'{self.decay_type} decay {self.decay_rate:g} of the learning rate{slower}: {len(set(rates))} rates, '
                  f'from {min(rates):.3g} to {max(rates):.3g}', 'current')
        return wrapper

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '',
                   is_dcn_module: int | float | None = None) -> None:
        start = len(params)
        super().add_params(params, module, prefix, is_dcn_module)       # which calls this for every child
        if prefix:
            return
        factor = self._factors(module)
        names = {id(p): name for name, p in module.named_parameters()}
        for group in params[start:]:
            group.setdefault('lr', self.base_lr)
            group['lr'] *= factor(names[id(group['params'][0])])

    def _factors(self, model: nn.Module) -> Callable[[str], float]:
        """The factor of a parameter's rate by its name in the model."""
        backbones = {f'{name}.'.replace(FSDP, ''): part for name, part in model.named_modules()
                     if name and hasattr(type(part), 'get_layer_depth')}
        if not backbones:
            found = type(getattr(model, 'backbone', model)).__name__
            raise ArgumentError(f'layer decay asks a backbone for the depth of its parameters, and {found} does not '
                                f'know it: it has no {ASKED}')
        if any(name.endswith('_flat_param') for name, _ in model.named_parameters()):
            raise ArgumentError('layer decay needs parameters that FSDP leaves apart; set use_orig_params=True in its '
                                'model_wrapper')
        for part in backbones.values():
            self._check_layers(part)

        def factor(name: str) -> float:
            name = name.replace(FSDP, '')
            prefix = next((prefix for prefix in backbones if name.startswith(prefix)), None)
            if prefix is None:
                return 1.
            depth, layers = self._depth(backbones[prefix], name, prefix)
            return float(self.backbone_lr_mult * self.decay_rate ** (layers - 1 - depth))
        return factor

    def _depth(self, backbone: Any, name: str, prefix: str) -> tuple[int, int]:
        options = dict(by_stage=True) if self.decay_type == 'stage_wise' else {}
        return backbone.get_layer_depth(name, prefix, **options)

    def _check_layers(self, backbone: Any) -> None:
        name, by_stage = type(backbone).__name__, self.decay_type == 'stage_wise'
        if by_stage and 'by_stage' not in signature(backbone.get_layer_depth).parameters:
            raise ArgumentError(f"paramwise_cfg.decay_type='stage_wise': {name}.get_layer_depth has no argument "
                                "by_stage; use 'layer_wise'")
        layers, wanted = self._depth(backbone, '', '')[1] - 2, self.paramwise_cfg.get('num_layers')
        if wanted not in (None, layers):
            raise ArgumentError(f'paramwise_cfg.num_layers={wanted!r}, but {name} has {layers} '
                                f'{"stages" if by_stage else "blocks"}; leave num_layers out, the backbone knows it')
