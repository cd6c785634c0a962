import base64
import functools
import http.server
import io
import itertools
import json
import os
import re
import shutil
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mmattn.visualization import record_attention
from mmattn.visualization.recording import Frame, Query, Record
from mmattn.visualization.viewer import query_positions, write_viewer
from tests.models import small, small_bi, small_cross

SIZE = 64, 96
COUNT = 24              # 4 rows of 6 queries
HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="hacked = 1"><!-- {{data}} &amp; "\''
STEP = 1 / 65535


def recorded(make, positions=None, size=SIZE, **options):
    model = make().eval()
    for parameter in model.parameters():    # weights that differ visibly between keys
        parameter.data.mul_(3)
    positions = query_positions(size, COUNT) if positions is None else positions
    with torch.no_grad(), record_attention(model, queries=positions, **options) as records:
        model(torch.randn(1, 3, *size))
    return records


@pytest.fixture(scope='module')
def models():
    torch.manual_seed(0)
    return {'DAT': recorded(small), HOSTILE: recorded(small_bi), 'CrossFormer': recorded(small_cross)}


@pytest.fixture
def picture():
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    return np.stack([rows * 3, columns * 2, rows + columns], -1).astype(np.uint8)


def expected(record, number, head=None, top=20):
    """{(x, y): weight} by definition, keys in the image among the `top` of each head; None for the mean of heads."""
    query, found = record.queries[number], {}
    heads = range(len(query.weights)) if head is None else [head]
    for h in heads:
        inside = [(w, x, y) for w, (x, y) in zip(query.weights[h].tolist(), query.keys[h].tolist())
                  if 0 <= x <= SIZE[1] and 0 <= y <= SIZE[0]]
        for weight, x, y in sorted(inside, reverse=True)[:top]:
            place = round(x, 3), round(y, 3)
            found[place] = found.get(place, 0) + weight / len(heads)
    return found


def same(shown, wanted):
    """Whether the page's keys [(x, y, weight)] are those wanted; those that weigh nothing may be missing."""
    shown = {(x, y): weight for x, y, weight in shown}
    for (x, y), weight in wanted.items():
        near = [w for (a, b), w in shown.items() if abs(a - x) < 0.01 and abs(b - y) < 0.01]
        # two keys may share a place, and which of two equal weights are kept is open
        if weight > 2 * STEP and not any(abs(w - weight) < 2 * STEP for w in near):
            return False
    return abs(sum(shown.values()) - sum(wanted.values())) < len(wanted) * STEP + 1e-6


def data_of(path):
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def unpacked(layer, queries):
    planes = np.frombuffer(zlib.decompress(base64.b64decode(layer['data'])), np.uint8).astype(int)
    numbers = planes[:len(planes) // 2] + 256 * planes[len(planes) // 2:]
    shape = queries, layer['heads'], layer['keys']
    ends = np.cumsum([2 * layer['points'], 4 * queries] + [np.prod(shape)] * 3)
    assert ends[-1] == len(numbers)
    points, boxes, low, high, weights = np.split(numbers, ends[:-1])
    places = points.reshape(-1, 2)[low + 65536 * high].reshape(*shape, 2)
    sides = np.array(SIZE[::-1]) * STEP
    return places * sides, weights.reshape(shape) * STEP, boxes.reshape(-1, 4) * np.tile(sides, 2)


@pytest.mark.parametrize(('size', 'count', 'grid'), [
    ((200, 300), 6, (2, 3)), ((320, 480), 300, (14, 21)), ((10, 10000), 300, (1, 300)), ((10000, 10), 300, (300, 1)),
    ((5, 7), 1, (1, 1)),
])
def test_queries_are_the_centres_of_a_grid(size, count, grid):
    positions = query_positions(size, count)
    assert (len({y for _, y in positions}), len({x for x, _ in positions})) == grid
    assert len(positions) == grid[0] * grid[1]
    assert positions[0] == pytest.approx((size[1] / grid[1] / 2, size[0] / grid[0] / 2))
    assert positions[-1] == pytest.approx((size[1] - positions[0][0], size[0] - positions[0][1]))
    assert positions == sorted(positions, key=lambda position: position[::-1])


def test_the_page_holds_what_was_recorded(tmp_path, picture, models):
    write_viewer(tmp_path / 'page.html', picture, models, title='A & B')
    page = data_of(tmp_path / 'page.html')
    assert (page['size'], page['grid']) == ([64, 96], [4, 6])
    assert [model['name'] for model in page['models']] == list(models)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(page['image'].split(',')[1]))))
    assert np.abs(shown.astype(int) - picture).mean() < 3
    for model, records in zip(page['models'], models.values()):
        assert len(model['layers']) == len(records)
        for layer, record in zip(model['layers'], records):
            keys, weights, boxes = unpacked(layer, COUNT)
            for i, query in enumerate(record.queries):
                np.testing.assert_allclose(boxes[i], np.clip(query.box, 0, np.tile(SIZE[::-1], 2)), atol=0.01)
                for head in range(layer['heads']):
                    assert (np.diff(weights[i, head]) <= 0).all()
                    assert same(zip(*keys[i, head].T, weights[i, head]), expected(record, i, head))
    assert page['models'][0]['layers'][4]['label'] == 'stage 3, block 2: DeformableAttention'
    assert '<title>A &amp; B</title>' in (tmp_path / 'page.html').read_text()


def test_heads_with_keys_of_their_own_and_keys_outside_of_the_image(tmp_path, picture):
    keys = torch.tensor([[[-1.0, 5.0], [10.0, 20.0], [96.0, 64.0]], [[10.0, 20.0], [3.0, 4.0], [97.0, 2.0]]])
    weights = torch.tensor([[0.5, 0.2, 0.3], [0.6, 0.1, 0.3]])
    queries = [Query(position, (0, 0, 8, 8), keys, weights) for position in query_positions(SIZE, 6)[:-1]]
    last = query_positions(SIZE, 6)[-1]
    queries.append(Query(last, (90, 60, 100, 70), keys[:, :1], weights[:, :1]))     # fewer keys
    record = Record('neck.blocks.1', 'LocalAttention', 0, (8, 12), Frame(8, size=SIZE), queries)
    write_viewer(tmp_path / 'page.html', picture, {'A': [record]}, top=2)
    layer, = data_of(tmp_path / 'page.html')['models'][0]['layers']
    assert (layer['label'], layer['keys'], layer['points']) == ('neck.blocks.1: LocalAttention', 2, 4)
    keys, weights, boxes = unpacked(layer, 6)
    np.testing.assert_allclose(keys[0], [[[96, 64], [10, 20]], [[10, 20], [3, 4]]], atol=1e-3)
    np.testing.assert_allclose(weights[0], [[0.3, 0.2], [0.6, 0.1]], atol=STEP)
    np.testing.assert_allclose(weights[5], [[0, 0], [0.6, 0]], atol=STEP)
    np.testing.assert_allclose(boxes[5], [90, 60, 96, 64], atol=1e-3)


def test_a_page_is_small(tmp_path):
    """300 queries, 12 layers of 24 heads with 20 keys each: 1.7 million keys, each at a place of its own choosing."""
    chance = np.random.default_rng(0)
    size, centres = (320, 480), torch.from_numpy(np.stack(np.mgrid[8:480:16, 8:320:16], -1).reshape(-1, 2)).float()
    queries = []
    for position in query_positions(size, 300):
        chosen = torch.from_numpy(chance.integers(len(centres), size=(24, 20)))
        weights = torch.from_numpy(chance.dirichlet(np.full(20, 0.3), 24)).float()
        queries.append(Query(position, (0, 0, 16, 16), centres[chosen], weights))
    records = [Record(f'stages.2.blocks.{i}.attn', 'A', 0, (20, 30), Frame(16, size=size), queries) for i in range(12)]
    write_viewer(tmp_path / 'page.html', np.zeros((*size, 3), np.uint8), {'A': records})
    assert (tmp_path / 'page.html').stat().st_size < 9e6


def with_records(change):
    def models(records):
        return {'A': change(records)}
    return models


def other_image(records):
    records[1].image = 3
    return records


@pytest.mark.parametrize(('make', 'message'), [
    (lambda records: {}, r'models is empty: give the records of at least one model, \{name: records\}'),
    (with_records(lambda records: []), "no records of 'A': run the model inside record_attention"),
    (with_records(other_image), r"the records of 'A' are of images 0, 3 of the batch: give those of one, "
                                r'\[r for r in records if r.image == 0\]'),
    (with_records(lambda records: recorded(small, positions=[])), r"stages.0.blocks.0.attn of 'A' has no queries: "
                                                                  r'record with queries=query_positions\(\(64, 96\)\)'),
    (with_records(lambda records: recorded(small, positions=[(16, 32), (80, 33), (48, 32)])),
     r"query 0 of stages.0.blocks.0.attn of 'A' is at \(x, y\) = \(16, 32\), on the grid it would be at "
     r'\(24, 16\): record with queries=query_positions\(\(64, 96\)\)'),
    (with_records(lambda records: recorded(small, positions=query_positions(SIZE, 24)[:-1])),
     r"attn of 'A' has 23 queries, the grid has 4 rows of 6: record with"),
    (with_records(lambda records: recorded(small, size=(32, 96))),
     r'recorded on an image of \(height, width\) \(32, 96\), this one is \(64, 96\)'),
    (lambda records: {'A': records, 'B': recorded(small_bi, positions=query_positions(SIZE, 6))},
     "same grid of queries: one of 'A' has 4 rows of 6 queries, one of 'B' has 2 rows of 3"),
])
def test_wrong_records_say_what_is_right(tmp_path, picture, make, message):
    with pytest.raises(ValueError, match=message):
        write_viewer(tmp_path / 'page.html', picture, make(recorded(small)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('image', 'message'), [
    (np.zeros((64, 96), np.uint8), r'must be \(H, W, 3\) of uint8, got \(64, 96\) of uint8'),
    (np.zeros((64, 96, 3)), r'must be \(H, W, 3\) of uint8, got \(64, 96, 3\) of float64'),
])
def test_another_kind_of_image(tmp_path, image, message):
    with pytest.raises(ValueError, match=message):
        write_viewer(tmp_path / 'page.html', image, {})


def test_counts_below_one(tmp_path, picture):
    with pytest.raises(ValueError, match=r'must be at least 1, got \(64, 96\) and 0'):
        query_positions(SIZE, 0)
    with pytest.raises(ValueError, match=r'must be at least 1, got \(0, 96\) and 300'):
        query_positions((0, 96))
    with pytest.raises(ValueError, match='top must be at least 1, got 0'):
        write_viewer(tmp_path / 'page.html', picture, {}, top=0)


def test_an_error_leaves_the_older_page(tmp_path, picture, models, monkeypatch):
    path = tmp_path / 'page.html'
    path.write_text('older')
    monkeypatch.setattr(os, 'replace', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_viewer(path, picture, models)
    assert [file.read_text() for file in tmp_path.iterdir()] == ['older']


# In a browser.

@pytest.fixture(scope='module')
def browser():
    api = pytest.importorskip('playwright.sync_api', reason='needs the package playwright')
    executable = next(filter(None, map(shutil.which, ('chromium', 'google-chrome', 'chromium-browser'))), None)
    if executable is None:
        pytest.skip('needs chromium or google-chrome')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path, picture, models):
    """Open the page in a window; it must ask the network for nothing and print no error."""
    requests, errors, contexts = [], [], []
    write_viewer(tmp_path / 'page.html', picture, models, title=HOSTILE)

    def visit(width=1200, height=800, address=None, **options):
        contexts.append(browser.new_context(viewport=dict(width=width, height=height), **options))
        page = contexts[-1].new_page()
        page.on('request', lambda request: requests.append(request.url))
        page.on('console', lambda line: errors.append(line.text))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.goto(address or (tmp_path / 'page.html').as_uri())
        page.wait_for_function("document.querySelectorAll('.stage .box[x]').length === 3")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors
    assert [url for url in requests if not url.startswith('data:')] == [url for url in requests if 'page.html' in url]


def point(page, panel, column, row, action='move'):
    """The middle of a cell of the grid."""
    stage = page.locator('.stage').nth(panel)
    stage.scroll_into_view_if_needed()
    area = stage.bounding_box()
    at = area['x'] + (column + 0.5) * area['width'] / 6, area['y'] + (row + 0.5) * area['height'] / 4
    {'move': page.mouse.move, 'click': page.mouse.click, 'tap': page.touchscreen.tap}[action](*at)
    return at


def shown(page, panel):
    """[(x, y, weight)] of the discs of a panel."""
    return page.locator('.panel').nth(panel).locator('.keys').evaluate(
        "keys => [...keys.children].map(disc => ['cx', 'cy', 'data-weight'].map(name => +disc.getAttribute(name)))")


def choose(page, panel, layer=None, head=None):
    panel = page.locator('.panel').nth(panel)
    if layer is not None:
        before = panel.locator('.text').text_content()
        panel.get_by_label('Layer').select_option(index=layer)
        page.wait_for_function('([panel, before]) => panel.textContent !== before',
                               arg=[panel.locator('.text').element_handle(), before])
    if head is not None:
        panel.get_by_label('Head').select_option(head)


def test_the_pointer_moves_the_query_in_every_panel(visit, models):
    page, seen = visit(), []
    for column, row in ((1, 0), (4, 3)):
        point(page, 0, column, row)
        assert f'x {16 * column + 8}.0, y {16 * row + 8}.0' in page.get_by_role('status').text_content()
        for panel, records in enumerate(models.values()):
            keys = shown(page, panel)
            assert same(keys, expected(records[-1], 6 * row + column))
            assert keys == sorted(keys, key=lambda key: key[2])         # the strongest on top
            seen.append(keys)
            text = page.locator('.text').nth(panel)
            assert text.get_attribute('aria-live') == 'polite'
            assert f'the strongest, at x {keys[-1][0]:.1f}, y {keys[-1][1]:.1f}, has ' in text.text_content()
            share = float(re.search(r'hold ([\d.]+)%', text.text_content())[1])
            assert share == pytest.approx(100 * sum(key[2] for key in keys), abs=0.051)
            strongest = page.locator('.panel').nth(panel).locator('circle.strongest')
            assert float(strongest.get_attribute('cx')) == keys[-1][0]
    assert all(one != other for one, other in zip(seen[:3], seen[3:]))


def test_layers_and_heads(visit, models):
    page, records = visit(), models['DAT']
    point(page, 0, 2, 1)
    others = shown(page, 1), shown(page, 2)
    for layer, record in enumerate(records[:-1]):       # it begins with the last
        choose(page, 0, layer, 'all heads')
        assert same(shown(page, 0), expected(record, 8))
        for head in (0, len(record.queries[8].weights) - 1):
            choose(page, 0, head=f'head {head + 1}')
            assert same(shown(page, 0), expected(record, 8, head))
            assert f'{record.kind}, head {head + 1}. ' in page.locator('.text').first.text_content()
        corner = [float(page.locator('.box').first.get_attribute(name)) for name in ('x', 'y')]
        assert corner == pytest.approx(record.queries[8].box[:2], abs=0.01)
    assert (shown(page, 1), shown(page, 2)) == others
    heads = page.locator('.panel').first.get_by_label('Head').locator('option').all_text_contents()
    assert heads == ['all heads', 'head 1', 'head 2', 'head 3', 'head 4']


def test_a_pinned_query_stays(visit, models):
    page = visit()
    pin, place = page.get_by_role('button'), page.get_by_role('status')
    point(page, 1, 1, 2, 'click')
    assert pin.get_attribute('aria-pressed') == 'true'
    assert place.text_content() == 'Pinned at x 24.0, y 40.0'
    point(page, 1, 5, 0)
    choose(page, 2, 0)
    assert same(shown(page, 2), expected(models['CrossFormer'][0], 13))
    point(page, 0, 4, 1, 'click')                       # a click elsewhere takes the pin along
    assert place.text_content() == 'Pinned at x 72.0, y 24.0'
    page.keyboard.press('ArrowLeft')
    page.keyboard.press('ArrowDown')
    assert place.text_content() == 'Pinned at x 56.0, y 40.0'
    assert same(shown(page, 0), expected(models['DAT'][-1], 15))
    for _ in range(9):
        page.keyboard.press('ArrowRight')
    assert place.text_content() == 'Pinned at x 88.0, y 40.0'
    page.keyboard.press('Escape')
    assert pin.get_attribute('aria-pressed') == 'false'
    point(page, 0, 0, 0)
    assert place.text_content() == 'Query at x 8.0, y 8.0'
    point(page, 0, 0, 0, 'click')
    point(page, 0, 0, 0, 'click')                       # the second one releases it
    assert place.text_content() == 'Query at x 8.0, y 8.0'
    pin.click()
    assert pin.text_content() == 'Release'


def test_on_a_phone(visit, models):
    page = visit(360, 640, has_touch=True, is_mobile=True)
    assert page.evaluate('document.documentElement.scrollWidth') == 360
    areas = [panel.bounding_box() for panel in page.locator('.panel').all()]
    assert len({area['x'] for area in areas}) == 1
    assert all(one['y'] + one['height'] < other['y'] for one, other in itertools.pairwise(areas))
    point(page, 1, 4, 0, 'tap')
    place = page.get_by_role('status')
    assert place.text_content() == 'Pinned at x 72.0, y 8.0'
    assert same(shown(page, 1), expected(models[HOSTILE][-1], 4))
    area = page.locator('.stage').nth(1).bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, column in (('touchStart', 0), ('touchMove', 1), ('touchMove', 2), ('touchMove', 3), ('touchEnd', None)):
        points = [] if column is None else [dict(x=area['x'] + (column + 0.5) * area['width'] / 6,
                                                 y=area['y'] + 0.4 * area['height'])]
        touch.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=points))
    assert place.text_content() == 'Pinned at x 56.0, y 24.0'
    assert same(shown(page, 0), expected(models['DAT'][-1], 9))


def test_names_are_text(visit):
    page = visit()
    assert page.locator('h2').all_text_contents() == ['DAT', HOSTILE, 'CrossFormer']
    assert page.title() == page.locator('h1').text_content() == HOSTILE
    assert page.evaluate('window.hacked') is None
    assert page.locator('main img').count() == 0


def test_every_control_has_a_name_and_both_schemes_differ(visit):
    colours = set()
    for scheme in ('light', 'dark'):
        page = visit(color_scheme=scheme)
        colours.add(page.evaluate('getComputedStyle(document.body).backgroundColor'))
    assert len(colours) == 2
    assert page.get_by_label('Layer').count() == page.get_by_label('Head').count() == 3
    assert page.get_by_role('application', name='Image of DAT').count() == 1


def test_from_a_server_it_asks_for_nothing_more(visit, tmp_path):
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = visit(address=f'http://127.0.0.1:{server.server_port}/page.html')
        choose(page, 0, 1)
        assert asked == ['/page.html']
    finally:
        server.shutdown()
        server.server_close()
