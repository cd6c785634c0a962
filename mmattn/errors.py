"""Errors that a user can put right; the commands end with their message in one line, without a traceback."""
from collections.abc import Iterable


class UsageError(Exception):
    """Something the user can put right; the message says what."""


class CheckpointError(UsageError, ValueError):
    """A checkpoint that cannot be read, used or written, with the reason."""


class NonFiniteError(UsageError, ArithmeticError):
    """Losses, gradients or outputs are not finite; the message names the module."""


class ArgumentError(ValueError):
    """An argument that does not fit; the message names it, its value and what would be right.

    One of a config is the user's to put right, and ends a command in one line; one that a program of theirs passes
    shows where, by its traceback.
    """


def some(items: Iterable[object], count: int = 5) -> str:
    """The first few of many, for a message."""
    items = list(items)
    return ', '.join(map(str, items[:count])) + ', …' * (len(items) > count)
