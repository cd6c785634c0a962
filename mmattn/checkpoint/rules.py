"""Rename by rules: pairs of a pattern and a name, or a function of the match; the first whole match wins."""
import re
from collections.abc import Callable, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str | None]]]


def apply_rules(rules: Rules, key: str) -> str | None:
    """The name that the rules give to a key; None where no rule matches."""
    for pattern, name in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return name(match) if callable(name) else match.expand(name)
    return None


def apply_inside(prefix: str, rules: Rules, key: str) -> str | None:
    """The same behind a prefix, which is left out where the name is empty or none."""
    name = apply_rules(rules, key)
    return prefix + name if name else name


def with_matrices(name: str | None, value: Tensor) -> tuple[str | None, Tensor]:
    """Our name and the value, of a linear map a matrix, where the authors have a 1 x 1 convolution."""
    is_linear = name and re.search(r'(qkv|proj\w*|fc[12])\.weight$', name) and value.ndim == 4
    return name, value.flatten(1) if is_linear else value
