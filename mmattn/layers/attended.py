"""What an attention layer attends to, in the same words for every kind: `layer.attended(x, pixels)`.

A layer says it itself, next to its forward pass and by the same code; whoever shows it knows no kind of layer.

Positions are (y, x) on the map that the layer reads, in pixels: 0 is the outer edge of the first pixel, 0.5 its centre,
H or W the outer edge of the last. Keys in the padding of a map lie beyond it.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

BLOCK_LOGITS = 2 ** 24      # of all heads at once, where the attention of every query is counted


class Keys(NamedTuple):
    """The K keys of one query, for each of h heads.

    Args:
        positions: (h, K, 2) where they are.
        weights: (h, K) how much each counts, float32; they sum to 1.
    """
    positions: Tensor
    weights: Tensor


@dataclass
class Attended:
    """What one layer of h heads did with one map of H x W pixels. What a kind of layer does not have is None.

    Args:
        queries: the keys of each query asked for.
        points: (G, Hk, Wk, 2) sampled points of deformable attention.
        references: (Hk, Wk, 2) where they would be without offsets.
        received: (h, Hk, Wk) attention that each point receives, the mean over all queries; the heads of a group,
            h / G of them, share its points.
        routes: (Gy, Gx, k) regions that each region of bi-level routing attends to, by number, row by row.
        scores: (Gy, Gx, k) logits of the routes.
        regions: (Gy, Gx, 4) the regions, (top, left, bottom, right).
        groups: (H, W) number of the group or window that a pixel belongs to.
    """
    queries: list[Keys] = field(default_factory=list)
    points: Tensor | None = None
    references: Tensor | None = None
    received: Tensor | None = None
    routes: Tensor | None = None
    scores: Tensor | None = None
    regions: Tensor | None = None
    groups: Tensor | None = None


@runtime_checkable
class Attends(Protocol):
    """A layer that says what it attends to. `issubclass(type(layer), Attends)` asks whether one does."""

    def attended(self, x: Tensor, pixels: Sequence[tuple[int, int]] = ()) -> Attended:
        """What the layer attends to, without dropout.

        Args:
            x: (1, C, H, W) what it reads.
            pixels: (row, column) of the queries whose keys are wanted.
        """
        ...


def keys_of(q: Tensor, k: Tensor, positions: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Keys:
    """The keys of one query of dot-product attention.

    Args:
        q: (h, d).
        k: (h, K, d).
        positions: (K, 2), or (h, K, 2) where heads have keys of their own.
        bias: (h, K) or (K,); added to the logits, or True where a key may be seen.
        scale: of the logits; None for 1 / sqrt(d).
    """
    bias = None if bias is None else bias.expand(*k.shape[:2])[:, None]
    return Keys(positions.expand(*k.shape[:2], 2), attention_weights(q[:, None], k, bias, scale)[:, 0])


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T + bias) of n queries, in float32.

    Args:
        q: (h, n, d).
        k: (h, K, d).
        bias: (h, n, K), or broadcasts to it; added to the logits, or True where a key may be seen.
        scale: of the logits; None for 1 / sqrt(d).

    Returns:
        (h, n, K).
    """
    logits = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else logits + bias.float()
    return logits.softmax(-1)


def attended_points(q: Tensor, k: Tensor, pixels: Sequence[tuple[int, int]], width: int, positions: Tensor,
                    references: Tensor, bias: Callable[[slice], Tensor | None], **more: Tensor) -> Attended:
    """What the pixels of a map attend to, where all have the same keys at sampled points; and the attention that each
    point receives.

    Args:
        q: (h, N, d) queries, row by row.
        k: (h, Hk, Wk, d).
        pixels: (row, column) of the queries whose keys are wanted.
        width: queries of a row.
        positions: (G, Hk, Wk, 2) the points, for the heads of each group.
        references: (Hk, Wk, 2) where they would be without offsets.
        bias: gives what is added to the logits of some queries, (h, n, K); None for nothing.
        more: what else `Attended` has.
    """
    grid = k.shape[1:3]
    k = k.flatten(1, 2)

    def weights(queries: slice) -> Tensor:
        return attention_weights(q[:, queries], k, bias(queries))

    of_heads = positions.flatten(1, 2).repeat_interleave(len(q) // len(positions), 0)
    places = [row * width + column for row, column in pixels]
    queries = [Keys(of_heads, weights(slice(place, place + 1))[:, 0]) for place in places]
    step = max(1, BLOCK_LOGITS // (len(k) * k.shape[1]))
    received = torch.stack([weights(slice(first, first + step)).sum(1) for first in range(0, q.shape[1], step)]).sum(0)
    return Attended(queries, positions, references, received.unflatten(1, grid) / q.shape[1], **more)


def centers(size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(H, W, 2) centres of the pixels of a map of `size` (H, W), (y, x)."""
    y, x = (torch.arange(n, device=device) + 0.5 for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing='ij'), -1)


def to_pixels(points: Tensor, size: Sequence[int]) -> Tensor:
    """Normalised points (..., 2) as `mmattn.ops.grid.sample` reads them, -1 and 1 the centres of the first and last
    pixel, -> pixels of a map of `size` (H, W)."""
    return (points.float() + 1) / 2 * (points.new_tensor(size, dtype=torch.float32) - 1) + 0.5
