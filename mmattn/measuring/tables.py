"""Tables in Markdown."""
from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of its head, the names of the columns, and of rows.

    Example:
        >>> print(markdown(['network', 'mIoU'], [('dat', 34.5)]))
        | network | mIoU |
        |---|---|
        | dat | 34.5 |
    """
    lines = [f'| {" | ".join(map(str, row))} |' for row in (head, *rows)]
    return '\n'.join([lines[0], '|' + '---|' * len(head), *lines[1:]])
