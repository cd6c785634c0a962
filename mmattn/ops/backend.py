"""Which implementation of an operation runs: the first that has nothing against it, or the one that is asked for."""
import os


def choose_backend(names, refusals, variable, requested=None, never_preferred=()):
    """Choose an implementation.

    Args:
        names (Sequence[str]): implementations, preferred first.
        refusals (Callable[[str], list[str]]): reasons of one not to run here; called for as few as possible.
        variable (str): environment variable that names one; the argument comes before it.
        requested (str | None): the one that the caller insists on.
        never_preferred (Sequence[str]): implementations that run only if requested.

    Returns:
        str: one of `names`, or of `never_preferred`.

    Raises:
        ValueError: the requested implementation is unknown or refuses.
    """
    source = f'backend={requested!r}'
    if requested is None and os.environ.get(variable):
        requested = os.environ[variable]
        source = f'{variable}={requested}'
    if requested is None:
        return next(name for name in names if not refusals(name))
    if requested not in (*names, *never_preferred):
        raise ValueError(f'{source} is unknown; choose one of {", ".join(sorted([*names, *never_preferred]))}')
    reasons = refusals(requested)
    if reasons:
        raise ValueError(f'{source} cannot run: {"; ".join(reasons)}')
    return requested
