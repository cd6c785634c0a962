"""Files that inputs stand for, and the frames of videos."""
import cv2
import numpy as np
import pytest

from mmattn.errors import ArgumentError, UsageError
from mmattn.inference.media import Unreadable, batched, check_image, drawable, find_sources, frame_rate, read_frames


@pytest.fixture
def folder(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'a.jpg', 'notes.txt', '.hidden.png', 'sub/a.png', 'sub/deeper/clip.mp4',
                 '.git/x.png', 'results/pictures/a.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(inputs, **options):
    return [source.name for source in find_sources(inputs, **options)]


def test_a_folder_is_what_is_in_it_and_below_without_what_is_hidden_or_written(folder):
    expected = ['a.PNG', 'a_2.jpg', 'b.jpg', 'results/pictures/a.png', 'sub/a.png', 'sub/deeper/clip.mp4']
    assert names(folder) == names([str(folder)]) == expected
    found = find_sources(folder, without=folder / 'results')
    assert [source.name for source in found] == [name for name in expected if 'results' not in name]
    assert found[1].path == str(folder / 'a.jpg')
    assert found[-1].video == folder / 'sub/deeper/clip.mp4'
    assert found[0].video is None
    assert names(folder / 'results', without=folder / 'results') == ['pictures/a.png']      # what is asked for is given


def test_names_differ_even_without_their_suffix(folder):
    other = folder / 'sub/a.png'
    assert names([folder / 'a.PNG', other, folder / 'a.jpg', other]) == ['a.PNG', 'a_2.png', 'a_3.jpg', 'a_4.png']


def test_patterns_name_files_below_what_is_before_them(folder):
    assert names(f'{folder}/*.jpg') == ['a.jpg', 'b.jpg']
    assert names(f'{folder}/*/a.*') == ['sub/a.png']
    assert names(f'{folder}/su[ab]/a.png') == ['sub/a.png']
    assert names(f'{folder}/**/a.*') == ['a.PNG', 'a_2.jpg', 'results/pictures/a.png', 'sub/a.png']
    odd = folder / 'b[1].jpg'
    odd.touch()
    assert names(odd) == ['b[1].jpg']      # a file of that name comes first


def test_a_file_that_is_named_is_taken_whatever_its_suffix(folder):
    assert names(folder / 'notes.txt') == ['notes.txt']


def test_what_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=rf'^input not found: {tmp_path}/none\.png$'):
        find_sources([folder, tmp_path / 'none.png'])
    (tmp_path / 'empty').mkdir()
    for nothing in (tmp_path / 'empty', f'{tmp_path}/x*.png', f'{tmp_path}/*.txt'):
        with pytest.raises(UsageError, match=r'has no images or videos; known by \.jpg .* \.mp4'):
            find_sources(nothing)


def test_arrays_are_images_of_three_channels():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert names([image, image]) == ['00000.png', '00001.png']
    assert find_sources(image)[0].content is not None
    assert (check_image(np.dstack([image, image[..., :1]])) == image).all()
    for grey in (image[..., 0], image[..., :1]):
        assert (check_image(grey) == image[..., :1].repeat(3, 2)).all()
    for wrong in (image.astype(np.float32), image[None], image[:0], np.zeros((2, 2, 2), np.uint8)):
        with pytest.raises(ArgumentError, match=r'shape \(.*is no image; they are uint8, \(H, W, 3\) BGR'):
            check_image(wrong)


def test_what_pipelines_load_can_be_drawn():
    image = np.arange(48, dtype=np.float32).reshape(2, 4, 6)
    assert (drawable(image * 10 - 20) == (image[..., :3] * 10 - 20).clip(0, 255).astype(np.uint8)).all()
    assert drawable(image[..., 0]).shape == (2, 4, 3)


def test_frames_come_one_by_one_and_a_file_without_any_is_refused(tmp_path):
    frames = [np.full((32, 48, 3), 25 * i, np.uint8) for i in range(4)]
    video = cv2.VideoWriter(str(tmp_path / 'x.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 7, (48, 32))
    for frame in frames:
        video.write(frame)
    video.release()
    source, = find_sources(tmp_path / 'x.avi')
    assert len(source) == 4
    assert frame_rate(source.video) == 7
    read = list(read_frames(source.video))
    assert len(read) == 4
    assert all(np.abs(a.astype(int) - b).max() < 4 for a, b in zip(frames, read))
    (tmp_path / 'y.mp4').write_text('no video')
    with pytest.raises(Unreadable, match=r'^not a video that OpenCV can read$'):
        list(read_frames(tmp_path / 'y.mp4'))
    source, = find_sources(tmp_path / 'y.mp4')
    assert len(source) == 0
    assert frame_rate(source.video) == 25


def test_batches_hold_neighbours_of_one_key():
    assert list(batched('aaabba', 2, key=str)) == [['a', 'a'], ['a'], ['b', 'b'], ['a']]
    assert list(batched('', 2, key=str)) == []
