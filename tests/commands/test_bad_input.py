"""What bad input gets in training and testing: the table in docs/data.md, a row a case, with the demo configs."""
import io
import json
import math
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from mmattn.datasets import scenes
from mmattn.datasets.skipping import SKIPPED as SKIPPED_FILE
from tests.conftest import ROOT

SIZE = 128, 160
PIXELS, LABELS, MASKS = scenes.scene('training', 0)
SCENE = Image.fromarray(PIXELS[..., ::-1].copy())
LABEL_MAP = scenes.semantic_map(LABELS, MASKS)
USED, TRAINED, TESTED, SKIPPED = 'trained and tested', 'trained only', 'tested only', 'skipped'


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sixteen_bit(pixels):
    return cv2.imencode('.png', pixels.astype(np.uint16) * 257)[1].tobytes()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(SCENE, 'JPEG', exif=exif)


JPEG, PNG = encoded(SCENE, 'JPEG'), encoded(SCENE, 'PNG')
THUMBNAIL = encoded(SCENE.resize((40, 32)), 'JPEG')
WITH_THUMBNAIL = JPEG[:2] + b'\xff\xe1' + (len(THUMBNAIL) + 8).to_bytes(2, 'big') + b'Exif\0\0' + THUMBNAIL + JPEG[2:]
DAMAGED_PNG = bytearray(PNG)
DAMAGED_PNG[len(PNG) // 2] ^= 0x55

WHOLE_IMAGES = {
    'plain.jpg': JPEG, 'progressive.jpg': encoded(SCENE, 'JPEG', progressive=True), 'thumbnail.jpg': WITH_THUMBNAIL,
    'bytes-behind.jpg': JPEG + bytes(range(256)),
    'grey.png': encoded(SCENE.convert('L'), 'PNG'), 'grey.jpg': encoded(SCENE.convert('L'), 'JPEG'),
    'grey-16-bit.png': sixteen_bit(PIXELS[..., 0]), 'colour-16-bit.png': sixteen_bit(PIXELS),
    'rgba.png': encoded(SCENE.convert('RGBA'), 'PNG'), 'palette.png': encoded(SCENE.quantize(64), 'PNG'),
    '1-bit.png': encoded(SCENE.convert('1'), 'PNG'), 'cmyk.jpg': encoded(SCENE.convert('CMYK'), 'JPEG'),
    'bitmap.bmp': encoded(SCENE, 'BMP'),
}
BROKEN_IMAGES = {
    **{f'cut-{share}.jpg': JPEG[:int(len(JPEG) * share)] for share in (.001, .01, .05, .5, .99)},
    'cut-end.jpg': JPEG[:-2], 'cut-progressive.jpg': encoded(SCENE, 'JPEG', progressive=True)[:-500],
    'cut-behind-thumbnail.jpg': WITH_THUMBNAIL[:len(THUMBNAIL) + 40],
    **{f'cut-{share}.png': PNG[:int(len(PNG) * share)] for share in (.001, .5, .99)}, 'cut-end.png': PNG[:-4],
    'damaged.png': bytes(DAMAGED_PNG), 'cut.bmp': encoded(SCENE, 'BMP')[:-2000],
    'empty.jpg': b'', 'text.jpg': b'404: Not Found\n' * 9, 'missing.jpg': None,
}
IMAGES = {**{name: (content, USED) for name, content in WHOLE_IMAGES.items()},
          **{name: (content, SKIPPED) for name, content in BROKEN_IMAGES.items()}}


def corners(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(x=10, y=10, width=40, height=30, **others):
    return {**dict(category_id=1, iscrowd=0, bbox=[x, y, width, height], area=abs(width * height),
                   segmentation=corners(x, y, width, height)), **others}


def run_length(height, width):
    mask = np.zeros((height, width), np.uint8, order='F')
    mask[10:40, 10:50] = 1
    code = mask_utils.encode(mask)
    return dict(size=code['size'], counts=code['counts'].decode())


PLAIN = annotation()
# name of the image: content, (height, width) that the file says, annotations, outcome
DETECTION = {
    **{name: (content, SIZE, [PLAIN], outcome) for name, (content, outcome) in IMAGES.items()},
    'no-annotation.png': (PNG, SIZE, [], USED),
    'crowd-only.png': (PNG, SIZE, [annotation(iscrowd=1, segmentation=run_length(*SIZE))], USED),
    'one-pixel-box.png': (PNG, SIZE, [annotation(width=1, height=1)], USED),
    'one-pixel-wide-box.png': (PNG, SIZE, [annotation(x=10.3, width=1.2, height=90)], USED),
    'zero-area-box.png': (PNG, SIZE, [annotation(width=0)], USED),
    'negative-box.png': (PNG, SIZE, [annotation(x=60, width=-20, y=60, height=-20)], USED),
    'box-outside.png': (PNG, SIZE, [annotation(x=500, y=500)], USED),
    'box-partly-outside.png': (PNG, SIZE, [annotation(x=150, y=120)], USED),
    'polygon-without-area.png': (PNG, SIZE, [annotation(segmentation=[[10, 10, 20, 20, 30, 30]])], USED),
    'polygon-outside.png': (PNG, SIZE, [annotation(segmentation=corners(500, 500, 40, 30))], USED),
    'unknown-category.png': (PNG, SIZE, [annotation(category_id=99)], USED),
    'mask-of-another-size.png': (PNG, SIZE, [annotation(segmentation=run_length(64, 80))], SKIPPED),
    '1x1.png': (encoded(SCENE.crop((0, 0, 1, 1)), 'PNG'), (1, 1), [annotation(0, 0, 1, 1)], USED),
    'said-larger.png': (PNG, (480, 640), [annotation(x=300, y=300)], TESTED),
    'said-smaller.png': (PNG, (64, 80), [PLAIN], TESTED),
    'turned.jpg': (turned(), SIZE[::-1], [PLAIN], USED),
    'turned-said-unturned.jpg': (turned(), SIZE, [PLAIN], TESTED),
}


def outside(label):
    changed = LABEL_MAP.copy()
    changed[:9] = label
    return changed


# name of the image: content, label map (array, or content of its file), outcome
SEGMENTATION = {
    **{name: (content, LABEL_MAP, outcome) for name, (content, outcome) in IMAGES.items()},
    'only-unlabelled.png': (PNG, np.zeros_like(LABEL_MAP), USED),
    'only-ignored.png': (PNG, np.full_like(LABEL_MAP, 255), USED),
    'label-7-of-6.png': (PNG, outside(7), TESTED),
    'label-200.png': (PNG, outside(200), TESTED),
    'map-of-another-size.png': (PNG, LABEL_MAP[:64, :80], SKIPPED),
    'map-of-colours.png': (PNG, np.stack([LABEL_MAP] * 3, -1), SKIPPED),
    'map-cut.png': (PNG, encoded(Image.fromarray(LABEL_MAP), 'PNG')[:300], SKIPPED),
    'map-empty.png': (PNG, b'', SKIPPED),
    'map-missing.png': (PNG, None, SKIPPED),
    '1x1.png': (encoded(SCENE.crop((0, 0, 1, 1)), 'PNG'), LABEL_MAP[:1, :1], SKIPPED),
    'turned.jpg': (turned(), np.rot90(LABEL_MAP, -1), USED),
    'turned-map-unturned.jpg': (turned(), LABEL_MAP, SKIPPED),
}


# What pycocotools cannot evaluate: in the training set only.
NO_EVALUATION = {
    'polygon-of-two-corners.png': (PNG, SIZE, [annotation(segmentation=[[10, 10, 20, 20]])], TRAINED),
    'no-mask.png': (PNG, SIZE, [annotation(segmentation=[])], SKIPPED),
}


def write_detection(root, cases, file):
    """Images and a COCO file of the cases."""
    (root / 'images').mkdir(parents=True, exist_ok=True)
    coco = dict(images=[], annotations=[], categories=[dict(id=i + 1, name=n) for i, n in enumerate(scenes.CLASSES)])
    for i, (name, (content, (height, width), annotations, _)) in enumerate(cases.items()):
        if content is not None:
            (root / 'images' / name).write_bytes(content)
        coco['images'].append(dict(id=i, file_name=name, height=height, width=width))
        coco['annotations'] += [dict(one, image_id=i) for one in annotations]
    for i, one in enumerate(coco['annotations']):
        one['id'] = i + 1
    (root / file).write_text(json.dumps(coco))


def write_segmentation(root, cases):
    """Images and label maps of the cases, and a list of them."""
    for part in ('images', 'maps'):
        (root / part).mkdir(parents=True)
    for name, (content, labels, _) in cases.items():
        if isinstance(labels, np.ndarray):
            labels = encoded(Image.fromarray(np.ascontiguousarray(labels)), 'PNG')
        for path, data in ((root / 'images' / name, content), (root / 'maps' / f'{name}.png', labels)):
            if data is not None:
                path.write_bytes(data)
    (root / 'list.txt').write_text('\n'.join(cases))


def options(root, workers, detection=True):
    """Options that point a demo config at the cases, every image of the training set once an epoch."""
    train, others = ('train.json', 'test.json') if detection else ('list.txt', 'list.txt')
    prefix = ['data_prefix.img=images/'] if detection else [
        'data_prefix.img_path=images', 'data_prefix.seg_map_path=maps', 'img_suffix=', 'seg_map_suffix=.png']
    settings = [f'{split}_dataloader.{setting}' for split in ('train', 'val', 'test') for setting in (
        f'num_workers={workers}', f'persistent_workers={workers > 0}', f'dataset.data_root={root}/',
        f'dataset.ann_file={train if split == "train" else others}', *(f'dataset.{one}' for one in prefix))]
    if detection:
        settings += [f'{split}_evaluator.ann_file={root}/test.json' for split in ('val', 'test')]
        settings += ['train_dataloader.dataset.filter_cfg=None', 'train_dataloader.batch_size=4',
                     'test_dataloader.batch_size=4', 'train_cfg.max_epochs=1']
    else:
        settings += ['train_dataloader.batch_size=2', 'train_cfg.val_interval=1000',
                     'model.data_preprocessor.size=(160,160)']       # turned images are high
    return ['--cfg-options', *settings, 'val_dataloader.dataset.indices=[0,1,2,13,14]',
            'default_hooks.logger.interval=1']


def losses(work):
    lines = [json.loads(line) for path in work.rglob('scalars.json') for line in path.read_text().splitlines()]
    return [line['loss'] for line in lines if 'loss' in line]


def names(cases, *outcomes):
    return {name for name, (*_, outcome) in cases.items() if outcome in outcomes}


def skipped(work):
    lines = (work / SKIPPED_FILE).read_text().splitlines()
    found = [line.split('\t')[0].rpartition('/')[2] for line in lines]
    assert len(set(found)) == len(found)        # whichever process found them
    return set(found)


@pytest.fixture
def call(run_here):
    """Run a tool in this process; what it printed."""
    def call(*args):
        status, stdout, stderr = run_here(*args)
        assert status == 0, stderr[-3000:]
        return stdout + stderr
    return call


def only(text, start):
    line, = {line[line.index(start):] for line in text.splitlines() if start in line}
    return line


def check_detection(call, config, root, work, *others, with_masks):
    detection, cases = dict(DETECTION), {**DETECTION, **NO_EVALUATION}
    if not with_masks:
        for name, outcome in (('mask-of-another-size.png', USED), ('no-mask.png', TRAINED)):
            cases[name] = *cases[name][:-1], outcome
        detection = {name: cases[name] for name in detection}
    write_detection(root, cases, 'train.json')
    write_detection(root, detection, 'test.json')
    printed = call('tools/train.py', config, '--work-dir', work, *options(root, workers=2), *others)
    gone = names(cases, SKIPPED, TESTED)
    assert skipped(work) == gone
    assert len(losses(work)) == math.ceil(len(cases) / 4)
    assert all(map(math.isfinite, losses(work)))
    line = only(printed, 'train: skipped ')
    assert line.startswith(f'train: skipped {len(gone)} image(s) that cannot be loaded: ')
    assert line.endswith(f', …; {work}/skipped.txt says why')
    assert f'{root}/images/empty.jpg\tValueError: 0 bytes\n' in (work / SKIPPED_FILE).read_text()
    assert only(printed, 'val: skipped 2') == (
        'val: skipped 2 image(s) that cannot be loaded: cut-0.001.jpg, cut-0.01.jpg; their objects count as missed')
    out = work / 'predictions.pkl'
    printed = call('tools/test.py', config, (work / 'last_checkpoint').read_text(), '--work-dir', work / 'test',
                   '--out', out, *options(root, workers=2), 'test_dataloader.dataset.indices=None', *others)
    predicted = {sample['img_path'].rpartition('/')[2] for sample in pickle.loads(out.read_bytes())}
    assert predicted == names(detection, USED, TESTED)
    gone = names(detection, SKIPPED)
    assert only(printed, f'test: skipped {len(gone)} image(s) that cannot be loaded: cut-0.001.jpg, ').endswith(
        ', …; their objects count as missed')
    assert f'test: skipped {root}/images/empty.jpg: ValueError: 0 bytes' in printed


@pytest.mark.slow
def test_mask_rcnn(call, tmp_path):
    check_detection(call, ROOT / 'configs/demo/mask-rcnn_dat_scenes.py', tmp_path / 'data', tmp_path / 'work',
                    'model.test_cfg.rcnn.max_per_img=5', with_masks=True)


@pytest.mark.slow
def test_retinanet(call, tmp_path):
    check_detection(call, ROOT / 'configs/demo/retinanet_biformer_scenes.py', tmp_path / 'data', tmp_path / 'work',
                    with_masks=False)


@pytest.mark.slow
def test_upernet_which_is_resumed(call, tmp_path):
    root, work, config = tmp_path / 'data', tmp_path / 'work', ROOT / 'configs/demo/upernet_dat_scenes.py'
    write_segmentation(root, SEGMENTATION)
    steps = math.ceil(len(SEGMENTATION) / 2)
    train = 'tools/train.py', config, '--work-dir', work, *options(root, workers=0, detection=False)
    first = call(*train, 'train_cfg.max_iters=4', 'default_hooks.checkpoint.interval=4')
    early = skipped(work)
    gone = names(SEGMENTATION, SKIPPED, TESTED)
    assert early < gone
    assert f'train: skipped {len(early)} image(s)' in first
    last = call('tools/train.py', config, '--work-dir', work, '--resume', *train[4:], f'train_cfg.max_iters={steps}')
    assert skipped(work) == gone
    assert len(losses(work)) == steps
    assert all(map(math.isfinite, losses(work)))
    assert f'train: skipped {len(gone)} image(s) that cannot be loaded: ' in last
    checkpoint = (work / 'last_checkpoint').read_text()
    printed = call('tools/test.py', config, checkpoint, '--work-dir', work / 'test', '--out', work / 'maps', *options(
        root, workers=0, detection=False), 'test_dataloader.dataset.indices=None')
    assert {f'{path.stem}' for path in (work / 'maps').glob('*.png')} == {
        name.rpartition('.')[0] for name in names(SEGMENTATION, USED, TESTED)}
    gone = names(SEGMENTATION, SKIPPED)
    assert only(printed, f'test: skipped {len(gone)} image(s) that cannot be loaded: ').endswith(
        ', …; the figures are of the others')


@pytest.mark.slow
def test_two_processes_skip_together(run, tmp_path):
    root, work, config = tmp_path / 'data', tmp_path / 'work', ROOT / 'configs/demo/upernet_dat_scenes.py'
    write_segmentation(root, SEGMENTATION)
    settings = options(root, workers=1, detection=False)
    done = run('tools/dist_train.sh', config, 2, '--work-dir', work, *settings,
               f'train_cfg.max_iters={math.ceil(len(SEGMENTATION) / 4)}')
    gone = names(SEGMENTATION, SKIPPED, TESTED)
    assert skipped(work) == gone
    assert (done.stdout + done.stderr).count(f'train: skipped {len(gone)} image(s) that cannot be loaded: ') == 1
    gone = names(SEGMENTATION, SKIPPED)
    done = run('tools/dist_test.sh', config, (work / 'last_checkpoint').read_text(), 2, '--work-dir', work, *settings,
               'test_dataloader.dataset.indices=None')
    assert (done.stdout + done.stderr).count(f'test: skipped {len(gone)} image(s) that cannot be loaded: ') == 1
    assert 'mIoU ' in done.stdout
