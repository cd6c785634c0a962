"""Configs as text."""
from collections.abc import Callable, Mapping
from typing import Any

WIDTH = 120         # of a line


class Code(str):
    """An expression, written as it is; another text gets quotes."""


def assignments(values: Mapping[str, Any]) -> str:
    """Values as lines of a config, a name each."""
    return '\n'.join(f'{name} = {code(value, 0, len(name) + 3)}' for name, value in values.items()) + '\n'


def code(value: Any, indent: int = 0, used: int = 0) -> str:
    """A value as Python, on one line where it fits.

    Args:
        value: of dicts, lists, tuples and plain values.
        indent: spaces before its lines but the first.
        used: columns before it on its first line.
    """
    flat = one_line(value)
    if used + indent + len(flat) < WIDTH or not isinstance(value, (Mapping, list)):
        return flat
    inner = ' ' * (indent + 4)
    if isinstance(value, list):
        return '[\n' + ''.join(f'{inner}{code(one, indent + 4)},\n' for one in value) + ' ' * indent + ']'
    start, end, prefix = style(value)
    parts = [inner + prefix(key) + code(one, indent + 4, len(prefix(key))) for key, one in value.items()]
    return f'{start}\n' + ',\n'.join(parts) + end


def style(value: Mapping[str, Any]) -> tuple[str, str, Callable[[str], str]]:
    """How a dict begins and ends, and what is before each value; the key '**' stands for all of another dict."""
    if all(key.isidentifier() or key == '**' for key in value):
        return 'dict(', ')', lambda key: key if key == '**' else f'{key}='
    return '{', '}', lambda key: key if key == '**' else f'{key!r}: '


def one_line(value: Any) -> str:
    """A value as Python on one line."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, Mapping):
        start, end, prefix = style(value)
        return start + ', '.join(prefix(key) + one_line(one) for key, one in value.items()) + end
    if isinstance(value, (list, tuple)):
        inside = ', '.join(map(one_line, value))
        return f'[{inside}]' if isinstance(value, list) else f'({inside}{"," * (len(value) == 1)})'
    return repr(value)
