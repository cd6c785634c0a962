"""Checks of constructor arguments: each raises a ValueError that names the argument, its value and what is right."""


def check_divides(what, value, by, by_value):
    """Raise ValueError unless `by_value` is positive and divides `value`."""
    if by_value <= 0 or value % by_value:
        raise ValueError(f'{what}={value} is not divisible by {by}={by_value}')
