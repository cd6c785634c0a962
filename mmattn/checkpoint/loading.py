"""Checkpoints, ours or the authors', on their way into a model."""
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mmattn.checkpoint.comparing import Comparison, HasState, compare
from mmattn.checkpoint.convert import BACKBONE, PARTS, TABLES, Conversion, convert, fit, resize


@runtime_checkable
class Backbone(HasState, Protocol):
    """A module that knows the authors' names of its parameters, such as `mmattn.backbones.pyramid.Pyramid`."""

    def translate(self, key: str, value: Tensor) -> tuple[str | None, Tensor]:
        """The authors' parameter -> our name and value, see `convert`."""

    def left_out(self, name: str) -> bool:
        """Whether a parameter of the whole architecture is not built, see `fit`."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> object:
        """Take parameters and buffers."""


def load_backbone(model: Backbone, state: Mapping[str, Tensor]) -> Conversion:
    """Load the backbone of a checkpoint, ours or the authors', into `model`.

    Args:
        model: the backbone.
        state: parameters of a backbone, classifier, detector or segmentor.

    Raises:
        CheckpointError: as `convert` and `fit`.
    """
    if any(key.startswith(BACKBONE) for key in state):
        state = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    conversion = _fitted(model, state)
    model.load_state_dict(conversion.backbone, strict=False)
    return conversion


def _fitted(model: Backbone, state: Mapping[str, Tensor]) -> Conversion:
    conversion = convert(state, model.translate) if is_foreign(state, model) else Conversion(dict(state))
    fit(conversion, model, model.left_out)
    return conversion


def is_foreign(names: Iterable[str], model: Backbone) -> bool:
    """Whether these are (in part) neither names of the model nor of another backbone of ours."""
    others = {name for name in names if name.partition('.')[0] not in PARTS}
    return bool(others) and not others <= model.state_dict().keys()


def translate_on_load(model: Backbone, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Pre-hook of `load_state_dict`: where the backbone's parameters are the authors', replace them by ours. Bias
    tables of another size are resized in any case."""
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not is_foreign(own, model):
        for name, (_, shape) in compare(own, model).other_shape.items():
            if name.endswith(TABLES):
                state[prefix + name] = resize(name, own[name], shape)
        return
    conversion = _fitted(model, own)
    for name in own:
        del state[prefix + name]
    state.update({prefix + name: value for name, value in conversion.backbone.items()})


def take_classifiers(model: nn.Module) -> None:
    """Let a classifier take the authors' files: a pre-hook of its `load_state_dict`. Their backbone has no prefix, and
    what lies behind it other names."""
    if is_classifier(model):
        model.register_load_state_dict_pre_hook(translate_classifier)


def is_classifier(model: nn.Module) -> bool:
    """Whether it is a classifier with a backbone of ours."""
    return hasattr(model, 'head') and isinstance(getattr(model, 'backbone', None), Backbone)


def translate_classifier(model: Any, state: dict[str, Tensor], *_: object) -> None:
    """Where the parameters are those of an authors' classifier, replace them by ours."""
    if any(key.startswith(BACKBONE) for key in state) or not is_foreign(state, model.backbone):
        return
    conversion = _fitted(model.backbone, state)
    state.clear()
    state.update(conversion.state)


def compare_as_loaded(state: Mapping[str, Tensor], model: nn.Module) -> Comparison:
    """Compare a checkpoint with a model, a whole detector or segmentor too, as `load_state_dict` would take it: where a
    backbone's parameters are the authors', under our names.

    Raises:
        CheckpointError: those of a backbone are of another architecture, as `convert` and `fit`.
    """
    state = dict(state)
    if is_classifier(model):
        translate_classifier(model, state)
    for name, module in model.named_modules():
        if isinstance(module, Backbone):
            translate_on_load(module, state, f'{name}.' if name else '')
    return compare(state, model)
