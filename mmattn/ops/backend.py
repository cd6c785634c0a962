"""Which implementation of an operation runs: the first that has nothing against it, or the one that is asked for."""
import os


def choose_backend(names, refusals, variable, requested=None):
    """Choose an implementation.

    Args:
        names (Sequence[str]): implementations, preferred first.
        refusals (Callable[[str], list[str]]): reasons of one not to run here; called for as few as possible.
        variable (str): environment variable that names one; the argument comes before it.
        requested (str | None): the one that the caller insists on.

    Returns:
        str: one of `names`.

    Raises:
        ValueError: the requested implementation is unknown or refuses.
    """
    source = f'backend={requested!r}'
    if requested is None and os.environ.get(variable):
        requested = os.environ[variable]
        source = f'{variable}={requested}'
    if requested is None:
        return next(name for name in names if not refusals(name))
    if requested not in names:
        raise ValueError(f'{source} is unknown; choose one of {", ".join(sorted(names))}')
    reasons = refusals(requested)
    if reasons:
        raise ValueError(f'{source} cannot run: {"; ".join(reasons)}')
    return requested
