"""Look around in what models attend to: a page for the browser, one file that works offline."""
import base64
import html
import io
import json
import math
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from mmattn.errors import ArgumentError
from mmattn.visualization.recording import Record

TEMPLATE = Path(__file__).with_name('viewer.html')
STEPS = 65535           # of the width, of the height, and of a weight of 1: what 16 bits hold
SHOWN = (1600, 1600)    # a larger image is embedded smaller; positions are fractions of it


def query_positions(size: Sequence[int], count: int = 300) -> list[tuple[float, float]]:
    """Queries on an even grid over an image, row by row: what `record_attention` needs for `write_viewer`.

    Args:
        size: (height, width) of the image in pixels.
        count: about how many; as many as give nearly square cells.

    Returns:
        (x, y) of the centres of the cells, in pixels of the image, 0 at its outer edge. The grid has as many columns as
        there are different x, and as many rows as different y.

    Raises:
        ArgumentError: a size or a count below 1.

    Example:
        >>> query_positions((200, 300), count=6)
        [(50.0, 50.0), (150.0, 50.0), (250.0, 50.0), (50.0, 150.0), (150.0, 150.0), (250.0, 150.0)]
    """
    height, width = size
    if min(height, width, count) < 1:
        raise ArgumentError(f'size (height, width) and count must be at least 1, got {(height, width)} and {count}')
    columns = min(max(round(math.sqrt(count * width / height)), 1), count)
    return _centers(size, max(round(count / columns), 1), columns)


def write_viewer(path: str | Path, image: ArrayLike, models: Mapping[str, Sequence[Record]],
                 title: str = 'What the models attend to', top: int = 20) -> None:
    """Write a page that shows what the query under the pointer attends to, in one or more models side by side.

    Of each query and head, the page keeps the `top` keys with the largest weights; those outside of the image are left
    out. Positions are rounded to 1 / 65535 of the width and height, weights to 1 / 65535. Over all heads, a weight is
    the mean of the heads, where one whose key was left out counts 0.

    Args:
        path: of the HTML file. An error leaves an older file there as it was.
        image: (H, W, 3) uint8, RGB.
        models: the records of each model by its name, all of this image and recorded with
            `queries=query_positions((H, W))`.
        title: of the page.
        top: keys kept of a query and head; fewer where fewer were recorded.

    Raises:
        ArgumentError: an image of another shape or type; no models or records; records of several images, or of an
            image of another size; queries that are not the grid, or not the same grid in all models; `top` below 1.

    Example:
        >>> with record_attention(model, queries=query_positions(image.shape[:2]), top=20) as records:
        ...     model(x)
        >>> write_viewer('attention.html', image, {'DAT-T': records})
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ArgumentError(f'the image must be (H, W, 3) of uint8, got {image.shape} of {image.dtype}')
    if top < 1:
        raise ArgumentError(f'top must be at least 1, got {top}')
    size = image.shape[:2]
    grid = _common_grid(models, size)
    page = dict(image=_data_url(image), size=size, grid=grid, models=[
        dict(name=str(name), layers=[_packed(record, size, top) for record in records])
        for name, records in models.items()])
    # within a script, HTML ends at '</script>' wherever it stands, and '<!--' changes what it takes for the end
    data = json.dumps(page, separators=(',', ':')).replace('<', '\\u003c')
    values = dict(title=html.escape(str(title)), data=data)
    text = re.sub(r'\{\{(title|data)\}\}', lambda found: values[found[1]], TEMPLATE.read_text(encoding='utf-8'))
    _replace(Path(path), text)


def _centers(size: Sequence[int], rows: int, columns: int) -> list[tuple[float, float]]:
    return [((column + 0.5) * size[1] / columns, (row + 0.5) * size[0] / rows)
            for row in range(rows) for column in range(columns)]


def _common_grid(models: Mapping[str, Sequence[Record]], size: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of the queries, the same in every record."""
    if not models:
        raise ArgumentError('models is empty: give the records of at least one model, {name: records}')
    grids = {}
    for name, records in models.items():
        if not records:
            raise ArgumentError(f'no records of {name!r}: run the model inside record_attention')
        images = sorted({record.image for record in records})
        if len(images) > 1:
            raise ArgumentError(f'the records of {name!r} are of images {", ".join(map(str, images))} of the batch: '
                                f'give those of one, [r for r in records if r.image == {images[0]}]')
        for record in records:
            grids[_grid(record, name, size)] = name
    if len(grids) > 1:
        (first, one), (second, other) = list(grids.items())[:2]
        raise ArgumentError(f'all records need the same grid of queries: one of {one!r} has {first[0]} rows of '
                            f'{first[1]} queries, one of {other!r} has {second[0]} rows of {second[1]}')
    return next(iter(grids))


def _grid(record: Record, name: str, size: Sequence[int]) -> tuple[int, int]:
    where, advice = f'{record.layer} of {name!r}', f'record with queries=query_positions({tuple(size)})'
    if record.frame.size is not None and tuple(record.frame.size) != size:
        raise ArgumentError(f'{where} was recorded on an image of (height, width) {tuple(record.frame.size)}, this one '
                            f'is {tuple(size)}')
    got = [tuple(map(float, query.position)) for query in record.queries]
    if not got:
        raise ArgumentError(f'{where} has no queries: {advice}')
    columns = sum(y == got[0][1] for _, y in got)
    rows = math.ceil(len(got) / columns)
    right = _centers(size, rows, columns)
    for i, (have, want) in enumerate(zip(got, right)):
        if not np.allclose(have, want, rtol=0, atol=0.01):
            raise ArgumentError(f'query {i} of {where} is at (x, y) = ({have[0]:g}, {have[1]:g}), on the grid it would '
                                f'be at ({want[0]:g}, {want[1]:g}): {advice}')
    if len(got) != len(right):
        raise ArgumentError(f'{where} has {len(got)} queries, the grid has {rows} rows of {columns}: {advice}')
    return rows, columns


def _packed(record: Record, size: Sequence[int], top: int) -> dict[str, Any]:
    """One layer for the page: its name, counts, and 16-bit numbers, which are, one after the other, the points that
    keys are at (points, 2) (x, y), the boxes of the queries (Q, 4), the point of each key (Q, h, K), low and high half,
    and its weight (Q, h, K), 0 for none; strongest first."""
    sides = torch.tensor([size[1], size[0]], dtype=torch.double)
    heads = len(record.queries[0].weights)
    count = min(top, max(query.weights.shape[1] for query in record.queries))
    keys = np.zeros((len(record.queries), heads, count), np.uint32)
    weights = np.zeros(keys.shape, np.uint16)
    for i, query in enumerate(record.queries):
        inside = ((query.keys >= 0) & (query.keys <= sides)).all(-1)
        largest, order = query.weights.where(inside, 0).topk(min(count, query.weights.shape[1]), -1)
        places = _steps(query.keys.gather(1, order[..., None].expand(-1, -1, 2)) / sides).astype(np.uint32)
        weights[i, :, :order.shape[1]] = _steps(largest)
        keys[i, :, :order.shape[1]] = places[..., 0] << 16 | places[..., 1]
    points, keys = np.unique(np.where(weights > 0, keys, 0), return_inverse=True)
    boxes = _steps(torch.tensor([query.box for query in record.queries], dtype=torch.double) / sides.repeat(2))
    numbers = [np.stack([points >> 16, points & STEPS], -1), boxes, keys & STEPS, keys >> 16, weights]
    return dict(label=record.title, heads=heads, keys=count, points=len(points),
                data=_compressed(np.concatenate([part.reshape(-1).astype(np.uint16) for part in numbers])))


def _steps(fractions: Tensor) -> NDArray[np.uint16]:
    return (fractions.clamp(0, 1).double() * STEPS).round().numpy().astype(np.uint16)


def _compressed(numbers: NDArray[np.uint16]) -> str:
    """All low bytes, then all high bytes: they compress better apart, and no byte order is left to agree on."""
    planes = numbers.astype('<u2').view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def _data_url(image: NDArray[np.uint8]) -> str:
    picture, file = Image.fromarray(np.ascontiguousarray(image)), io.BytesIO()
    picture.thumbnail(SHOWN)
    picture.save(file, 'JPEG', quality=90)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f'{path.name}.part')
    try:
        part.write_text(text, encoding='utf-8')
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
