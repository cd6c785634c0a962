"""Tables in Markdown."""
from collections.abc import Iterable, Sequence

from mmattn.errors import UsageError


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


def with_table(text: str, page: object, script: str, table: str) -> str:
    """The text of a page with a table in its place, between two lines of which the first names what writes it.

    Args:
        text: Markdown.
        page: its name or path.
        script: the file that writes the table.
        table: what `markdown` gives.

    Raises:
        UsageError: there is no place for it.
    """
    start, end = f'<!-- table by {script} -->', '<!-- end of table -->'
    before, found, rest = text.partition(start)
    if not found or end not in rest:
        raise UsageError(f'{page} needs the lines {start} and {end}, between which the table goes')
    return f'{before}{start}\n{table}\n{end}{rest.partition(end)[2]}'
