"""Which implementation of an operation runs: the first that has nothing against it, or the one that is asked for."""
import os


def choose_backend(refusals, variable, requested=None):
    """Choose an implementation.

    Args:
        refusals (dict[str, list[str]]): implementations, preferred first, each with its reasons not to run here.
        variable (str): environment variable that names one; an argument comes before it.
        requested (str | None): the one that the caller insists on.

    Returns:
        str: a key of `refusals`.

    Raises:
        ValueError: the requested implementation is unknown, or refuses; or all of them do.
    """
    source = f'backend={requested!r}'
    if requested is None and os.environ.get(variable):
        requested = os.environ[variable]
        source = f'{variable}={requested}'
    if requested is None:
        able = [name for name, reasons in refusals.items() if not reasons]
        if not able:
            raise ValueError('no backend can run: ' + '; '.join(
                f'{name}: {", ".join(reasons)}' for name, reasons in refusals.items()))
        return able[0]
    if requested not in refusals:
        raise ValueError(f'{source} is unknown; choose one of {", ".join(refusals)}')
    if refusals[requested]:
        raise ValueError(f'{source} cannot run: {"; ".join(refusals[requested])}')
    return requested
