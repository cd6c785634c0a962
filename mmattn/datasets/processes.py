"""What the first of several processes finds out for all of them."""
from collections.abc import Callable
from typing import TypeVar

from mmengine.dist import broadcast_object_list, get_rank

from mmattn.errors import UsageError

T = TypeVar('T')


def on_the_first(find: Callable[[], T]) -> T:
    """Call a function in the first process, and give all of them its result.

    Raises:
        UsageError: in all of them, where the function raised it.
    """
    result: list[T | str | None] = [None, None]
    if get_rank() == 0:
        try:
            result[0] = find()
        except UsageError as error:
            result[1] = str(error)
    broadcast_object_list(result)
    if result[1] is not None:
        raise UsageError(result[1])
    return result[0]    # type: ignore[return-value]
