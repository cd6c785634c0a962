"""Checks of arguments: each raises an ArgumentError that names the argument, its value and what is right."""
from collections.abc import Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from mmattn.errors import ArgumentError

AUTOCAST = {torch.float32, torch.bfloat16, torch.float16}      # what autocast casts to each other


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number, `least` or more."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_divides(what: str, value: Any, by: str, by_value: Any) -> None:
    """Raise ArgumentError unless both are whole numbers from 1 and `by_value` divides `value`."""
    check_at_least(what, value, 1)
    check_at_least(by, by_value, 1)
    if value % by_value:
        raise ArgumentError(f'{what}={value} is not divisible by {by}={by_value}')


def check_choice(what: str, value: Any, known: Sequence[str]) -> None:
    """Raise ArgumentError unless `value` is one of `known`."""
    if value not in known:
        raise ArgumentError(f'{what}={value!r} is unknown; choose one of {", ".join(known)}')


def check_at_least(what: str, value: Any, least: int) -> None:
    """Raise ArgumentError unless `value` is a whole number, `least` or more."""
    if not is_whole(value, least):
        raise ArgumentError(f'{what}={value!r} must be at least {least}, a whole number')


def check_each(what: str, values: Any, least: int) -> None:
    """Raise ArgumentError unless `values` are whole numbers, one or more, each `least` or more."""
    if not isinstance(values, Sequence) or not values or not all(is_whole(value, least) for value in values):
        raise ArgumentError(f'{what}={values!r} must be a list of whole numbers, each at least {least}')


def check_kernel(what: str, value: Any, least: int = 1) -> None:
    """Raise ArgumentError unless `value` is the side of a kernel with a middle."""
    if not is_whole(value, least) or value % 2 == 0:
        raise ArgumentError(f'{what}={value!r} must be odd and at least {least}')


def check_number(what: str, value: Any, least: float = -inf) -> None:
    """Raise ArgumentError unless `value` is a finite number, `least` or more."""
    if not isinstance(value, Real) or not least <= float(value) < inf or value == -inf:
        raise ArgumentError(f'{what}={value!r} must be a finite number' + f' of at least {least}' * (least > -inf))


def check_ratio(what: str, value: Any, channels: int) -> None:
    """Raise ArgumentError unless `value` times the channels leaves an MLP hidden ones."""
    check_number(what, value)
    if int(channels * value) < 1:
        raise ArgumentError(f'{what}={value} leaves no hidden channels of embed_dims={channels}')


def check_rate(what: str, value: Any) -> None:
    """Raise ArgumentError unless `value` is a probability below 1."""
    if not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise ArgumentError(f'{what}={value!r} is outside [0, 1)')


def check_size(what: str, value: Any) -> tuple[int, int]:
    """(height, width) of one or two whole numbers from 1; ArgumentError unless it is such."""
    size = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(size) != 2 or not all(is_whole(side, 1) for side in size):
        raise ArgumentError(f'{what}={value!r} must be one or two whole numbers, each at least 1')
    return size[0], size[1]


def check_map(x: Tensor, channels: int, dtype: torch.dtype, what: str = 'x') -> None:
    """Raise ArgumentError unless `x` is a map (B, channels, H, W) that has pixels, of a dtype that goes with parameters
    of `dtype`; while torch.jit.trace records, sizes are tensors, and nothing is checked."""
    if torch.jit.is_tracing():      # type: ignore[attr-defined]
        return
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        raise ArgumentError(f'{what} has the shape {tuple(x.shape)}; (B, {channels}, H, W) is needed')
    if x.dtype != dtype and not (_autocasts(x.device.type) and {x.dtype, dtype} <= AUTOCAST):
        raise ArgumentError(f'{what} is {x.dtype}, but the parameters are {dtype}')


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
