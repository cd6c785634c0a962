"""What a printed layer says of itself."""
import inspect

from torch import Tensor, nn


def arguments_repr(layer: nn.Module, *always: str) -> str:
    """'embed_dims=96, num_heads=3, stride=2': the arguments of a constructor that a layer keeps as attributes.

    Args:
        layer: whose they are. Modules and parameters among its attributes are left out: PyTorch prints those.
        always: the arguments that are shown whatever they are, `backend` with them (None: chosen by device and size);
            the others are, where they differ from their defaults.
    """
    defaults: dict[str, object] = {}
    for kind in reversed(type(layer).__mro__):
        if issubclass(kind, nn.Module) and '__init__' in vars(kind):
            defaults |= {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}
    values = {name: getattr(layer, name) for name in (*always, *defaults) if hasattr(layer, name)}
    shown = {name: value for name, value in values.items() if not isinstance(value, (nn.Module, Tensor))
             and (name in (*always, 'backend') or value != defaults[name])}
    return ', '.join(f'{name}={_shown(value)}' for name, value in shown.items())


def _shown(value: object) -> str:
    return f'{value:g}' if isinstance(value, float) else repr(value)
