"""Draw the pictures of docs/concepts.md: python tools/maintenance/concept_pictures.py

Whom one pixel asks in each layer, on a generated scene. The weights are random, the rules are the layers' own.
"""
from pathlib import Path

import torch
from torch import nn

from mmattn import layers
from mmattn.datasets.scenes import scene
from mmattn.visualization import record_attention
from mmattn.visualization.drawing import draw_group, draw_points, draw_query, draw_routes, new_figure, show_image

FOLDER = Path(__file__).parents[2] / 'docs/concepts'
SIZE, STRIDE, CHANNELS = (128, 160), 4, 64
QUERY = (62, 70)            # (x, y) in pixels of the image
WIDTH = 3.0                 # of a panel, in inches
EMBED = dict(num_heads=2)


def sampled(axis, record):
    """Points, and arrows to them from where they would be without offsets."""
    draw_points(axis, [record])
    axis.get_legend().remove()


def asked(axis, record):
    """The keys of the query."""
    draw_query(axis, record, most=10 ** 6)


# picture -> its panels: a title, a layer, what is drawn
PICTURES = {
    'windows': [
        ('window', layers.LocalAttention(CHANNELS, window_size=8, **EMBED), draw_group),
        ('shifted window', layers.ShiftedWindowAttention(CHANNELS, window_size=8, **EMBED), draw_group)],
    'deformable': [
        ('points of all queries', layers.DeformableAttention(CHANNELS, stride=4, **EMBED), sampled),
        ('what one query asks', layers.DeformableAttention(CHANNELS, stride=4, **EMBED), asked)],
    'groups': [
        ('near group', layers.ShortDistanceAttention(CHANNELS, group_size=8, **EMBED), draw_group),
        ('far group', layers.LongDistanceAttention(CHANNELS, interval=4, **EMBED), draw_group)],
    'routing': [
        ('regions that one region chose', layers.BiLevelRoutingAttention(CHANNELS, num_windows=8, topk=6, **EMBED),
         draw_routes),
        ('what one query asks', layers.BiLevelRoutingAttention(CHANNELS, num_windows=8, topk=6, **EMBED), asked)],
    'agents': [
        ('agents', layers.DeformableBiLevelRoutingAttention(CHANNELS, stride=4, num_windows=8, topk=6, **EMBED),
         sampled),
        ('windows that one of agents chose', layers.DeformableBiLevelRoutingAttention(
            CHANNELS, stride=4, num_windows=8, topk=6, **EMBED), draw_routes)],
    'neighbourhood': [
        ('neighbourhood', layers.NeighborhoodAttention(CHANNELS, kernel_size=7, **EMBED), asked)],
}


def main():
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    image = scene('validation', 3, SIZE)[0]
    x = torch.from_numpy(image[None] / 255).permute(0, 3, 1, 2).float()
    for name, panels in PICTURES.items():
        figure, axes = new_figure(1, len(panels), SIZE, WIDTH)
        for axis, (title, layer, draw) in zip(axes[0], panels):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(3, CHANNELS, STRIDE, STRIDE), layer).eval()
            network.apply(spread)
            with record_attention(network, [QUERY]) as records, torch.no_grad():
                network(x)
            show_image(axis, image[..., ::-1], title)
            draw(axis, records[0])
        path = FOLDER / f'{name}.jpg'
        figure.savefig(path, dpi=100, bbox_inches='tight', pad_inches=0.02, pil_kwargs=dict(quality=88))
        print(path)


def spread(module):
    """Weights large enough that points leave their grid and routes differ."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        moves_agents = len(module.weight) == 1      # their offsets have no bound
        nn.init.normal_(module.weight, std=(0.3 if moves_agents else 2) * module.weight[0].numel() ** -0.5)


if __name__ == '__main__':
    main()
