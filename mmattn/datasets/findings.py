"""What a check of data finds, as records."""
from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from mmattn.datasets.loading import decode, reason
from mmattn.errors import UsageError, some

T = TypeVar('T')
Findings = Generator['Finding', None, T]        # of a check that also returns something
SHOWN = 3           # names in a line


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Args:
        level: 'fact' for what there is, 'warning' for what training survives, 'problem' for the rest.
        place: the split, or the key of a data set in the config; '' where it is of the whole.
        text: what was found.
    """
    level: Literal['fact', 'warning', 'problem']
    place: str
    text: str

    def __str__(self) -> str:
        level = '' if self.level == 'fact' else self.level
        return ': '.join(part for part in (level, self.place, self.text) if part)


def fact(place: str, text: str) -> Finding:
    return Finding('fact', place, text)


def warning(place: str, text: str) -> Finding:
    return Finding('warning', place, text)


def problem(place: str, text: str) -> Finding:
    return Finding('problem', place, text)


def counted(kind: Callable[[str, str], Finding], place: str, fault: str,
            items: Iterable[Hashable]) -> Iterator[Finding]:
    """One finding for all that have the same fault."""
    items = list(items)
    if items:
        yield kind(place, f'{len(items)} {fault}: {first(dict.fromkeys(items))}')


def guarded(kind: Callable[[str, str], Finding], place: str, findings: Findings[T]) -> Findings[T | None]:
    """The findings of a check, and as the last one the exception that ended it: data can be wrong in any way."""
    try:
        return (yield from findings)
    except UsageError:
        raise
    except Exception as error:
        yield kind(place, reason(error))
        return None


def check_files(place: str, kind: str, paths: Iterable[str]) -> Findings[list[str]]:
    """Files that are missing or empty; returns the others."""
    sizes = {path: Path(path).stat().st_size if Path(path).is_file() else None for path in paths}
    yield from counted(problem, place, f'{kind}(s) missing', [path for path, size in sizes.items() if size is None])
    yield from counted(problem, place, f'{kind}(s) of 0 bytes', [path for path, size in sizes.items() if size == 0])
    return [path for path, size in sizes.items() if size]


def check_whole(place: str, kind: str, paths: Iterable[str], facts: Callable[[Any], T]) -> Findings[dict[str, T]]:
    """Files that do not decode to their end; returns `facts` of the image for each of the others."""
    broken, known = [], {}
    for path in paths:
        try:
            known[path] = facts(decode(path))
        except Exception as error:      # Pillow's decoders raise what they like
            broken.append(f'{path} ({reason(error)})')
    yield from counted(problem, place, f'{kind}(s) damaged', broken)
    return known


def check_sizes(place: str, source: str, said: dict[str, tuple[int, int]], limit: int) -> Findings[None]:
    """Decode images, and compare their sizes (width, height) with what annotations say."""
    present = yield from check_files(place, 'image', said)
    sizes = yield from check_whole(place, 'image', spread(present, limit), lambda image: image.size)
    yield fact(place, f'read {len(sizes)} of {len(said)} images')
    yield from counted(problem, place, f'image(s) not of the size that {source} says', [
        f'{path} ({by(size)}, not {by(said[path])})' for path, size in sizes.items() if size != said[path]])


def first(items: Iterable[Any]) -> str:
    """The first names of a list."""
    return some(items, SHOWN)


def by(size: Iterable[int]) -> str:
    """A size in words: 160x128."""
    return 'x'.join(map(str, size))


def spread(items: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` of the items, at even distances; 0: all."""
    if not limit or len(items) <= limit:
        return items
    step = (len(items) - 1) / max(limit - 1, 1)
    return [items[round(i * step)] for i in range(limit)]
