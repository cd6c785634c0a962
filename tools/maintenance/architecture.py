"""Draw docs/architecture.svg and the table in docs/architecture.md: python tools/maintenance/architecture.py

The rooms of the package and who imports whom, read from its files. An arrow that others imply is left out.
"""
import ast
from itertools import pairwise
from pathlib import Path

from mmattn.errors import UsageError
from mmattn.measuring import tables

ROOT = Path(__file__).parents[2]
# From the ground floor up. A room imports those before it and itself.
ROOMS = ('errors', 'checks', 'ops', 'layers', 'checkpoint', 'openmmlab', 'registry', 'utils', 'backbones', 'necks',
         'config', 'datasets', 'engine', 'visualization', 'inference', 'deployment', 'measuring', 'commands',
         '__main__')
MODULES = sorted((ROOT / 'mmattn').rglob('*.py'))
WIDTH, ROW, BOX, MARGIN = 900, 78, (128, 40), 20       # of the picture, in pixels; BOX is (width, height)
SWEEPS = 20             # over the rows, to set rooms above those that they import


def room(name):
    """The room of a module, 'mmattn.layers.mlp' -> 'layers'; '' of the package itself."""
    return name.split('.')[1] if '.' in name else ''


def name_of(path):
    """'mmattn/layers/mlp.py' -> 'mmattn.layers.mlp'."""
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def names_imported(path):
    """Modules that a file imports, wherever in it; of the package itself, its rooms."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise UsageError(f'{path}: imports are absolute')
            rooms = [f'mmattn.{alias.name}' for alias in node.names]
            yield from rooms if node.module == 'mmattn' else [node.module]


def imported(path):
    """Modules of the package that a file imports."""
    return [name for name in names_imported(path) if name.startswith('mmattn.') and name != 'mmattn.__version__']


def imports():
    """The rooms that each room imports: dict[str, set[str]]."""
    found = {name: set() for name in ROOMS}
    for path in MODULES:
        own = room(name_of(path))
        if own:
            found[own] |= {room(name) for name in imported(path)} - {own}
    found['__main__'].add('commands')       # by their names, when one is called
    return found


def without_implied(found):
    """The same without what follows from others: that commands import errors, because layers do."""
    reached = {}
    for name in ROOMS:              # those that it imports are done
        reached[name] = found[name].union(*(reached[other] for other in found[name]))
    return {name: {other for other in found[name] if not any(other in reached[via] for via in found[name])}
            for name in ROOMS}


def paths_of(arrows):
    """Arrows from row to row, and the rows.

    Returns:
        list[list[str]]: rooms and bends, 'commands', 'commands measuring 5', …, 'measuring': one bend in each row that
            an arrow crosses.
        list[list[str]]: what is in each row, from the ground floor up; a room stands above those that it imports.
    """
    level = {}
    for name in ROOMS:
        level[name] = max((level[other] + 1 for other in arrows[name]), default=0)
    rows = [[name for name in ROOMS if level[name] == i] for i in range(max(level.values()) + 1)]
    paths = []
    for name in ROOMS:
        for other in sorted(arrows[name]):
            bends = {i: f'{name} {other} {i}' for i in range(level[name] - 1, level[other], -1)}
            for i, bend in bends.items():
                rows[i].append(bend)
            paths.append([name, *bends.values(), other])
    return paths, rows


def sort_rows(rows, paths):
    """Put each room and bend near those that it is joined to."""
    joined = {}
    for path in paths:
        for one, other in pairwise(path):
            joined.setdefault(one, []).append(other)
            joined.setdefault(other, []).append(one)
    for _ in range(SWEEPS):
        for row in [*rows, *reversed(rows)]:
            at = places(rows)
            row.sort(key=lambda name: sum(at[other][0] for other in joined[name]) / len(joined[name]))


def places(rows):
    """(x, y) of the middle of each room's box, and of each bend."""
    return {name: ((i + 1) * WIDTH / (len(row) + 1), MARGIN + BOX[1] / 2 + (len(rows) - 1 - level) * ROW)
            for level, row in enumerate(rows) for i, name in enumerate(row)}


def draw():
    """The picture as SVG."""
    paths, rows = paths_of(without_implied(imports()))
    sort_rows(rows, paths)
    at, (width, height) = places(rows), BOX
    bottom = 2 * MARGIN + height + (len(rows) - 1) * ROW
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}"'
             ' font-family="sans-serif" text-anchor="middle">',
             '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
             ' orient="auto"><path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>',
             '<rect width="100%" height="100%" fill="white"/>']
    for path in paths:
        (x1, y1), *bends, (x2, y2) = (at[name] for name in path)
        corners = [(x1, y1 + height / 2), *(corner for x, y in bends for corner in ((x, y - height / 2),
                                                                                     (x, y + height / 2))),
                   (x2, y2 - height / 2)]
        lines.append(f'<polyline points="{" ".join(f"{x:.0f},{y:.0f}" for x, y in corners)}" fill="none"'
                     ' stroke="#57606a" marker-end="url(#head)"/>')
    for name in ROOMS:
        x, y = at[name]
        lines += [f'<rect x="{x - width / 2:.0f}" y="{y - height / 2:.0f}" width="{width}" height="{height}" rx="6"'
                  ' fill="#ddf4ff" stroke="#0969da"/>',
                  f'<text x="{x:.0f}" y="{y + 5:.0f}" font-size="15">{name}</text>']
    return '\n'.join([*lines, '</svg>', ''])


def table():
    """What each room is for, in its own words, from the ground floor up."""
    return tables.markdown(['room', 'what'], ((f'`mmattn/{file}`', said) for file, said in map(described, ROOMS)))


def described(name):
    """The file or folder of a room, and the first sentences of its docstring."""
    folder = (ROOT / 'mmattn' / name).is_dir()
    path = ROOT / 'mmattn' / (f'{name}/__init__.py' if folder else f'{name}.py')
    said = ast.get_docstring(ast.parse(path.read_text())).partition('\n\n')[0]
    return name if folder else f'{name}.py', said.replace('\n', ' ')


def with_table(text):
    """The page with the table in its place."""
    return tables.with_table(text, 'docs/architecture.md', 'tools/maintenance/architecture.py', table())


def main():
    """Write both."""
    page = ROOT / 'docs/architecture.md'
    page.write_text(with_table(page.read_text()))
    (ROOT / 'docs/architecture.svg').write_text(draw())


if __name__ == '__main__':
    main()
