"""Checks of constructor arguments: each raises a ValueError that names the argument, its value and what is right."""


def check_divides(what, value, by, by_value):
    """Raise ValueError unless `by_value` is positive and divides `value`."""
    if by_value <= 0 or value % by_value:
        raise ValueError(f'{what}={value} is not divisible by {by}={by_value}')


def check_choice(what, value, known):
    """Raise ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f'{what}={value!r} is unknown; choose one of {", ".join(known)}')


def check_at_least(what, value, least):
    """Raise ValueError if `value` is below `least`."""
    if value < least:
        raise ValueError(f'{what}={value} must be at least {least}')
