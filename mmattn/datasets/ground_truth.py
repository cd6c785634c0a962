"""Where objects are in an image: its ground truth as one mask, and what is ignored as another."""
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS

from mmattn.errors import UsageError

Masks = tuple[np.ndarray, np.ndarray]       # of objects, and of what is ignored: (H, W) bool, in pixels of the image


def ground_truth(dataset: Any, i: int, background: Collection[int]) -> Masks:
    """The masks of an image of a data set; `background` are the labels of classes that are not objects."""
    info = dataset.get_data_info(i)
    if 'instances' in info:
        return of_instances(info)
    return of_label_map(info, background, getattr(dataset, 'ignore_index', 255))


def of_instances(info: Mapping[str, Any]) -> Masks:
    """Union of the instances of an image, and the crowds beside them."""
    mask, ignored = np.zeros((2, info['height'], info['width']), bool)
    for instance in info['instances']:
        (ignored if instance['ignore_flag'] else mask)[instance_mask(instance, mask.shape)] = True
    return mask, ignored & ~mask


def instance_mask(instance: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Mask of an instance, (H, W) bool, from polygons, a run-length code, or else its box."""
    from pycocotools import mask as mask_utils
    coded = instance.get('mask')
    if isinstance(coded, list):     # of polygons; two corners are none
        coded = [polygon for polygon in coded if len(polygon) >= 6]
        coded = coded and mask_utils.merge(mask_utils.frPyObjects(coded, *size))
    elif coded and isinstance(coded['counts'], list):
        coded = mask_utils.frPyObjects(coded, *size)
    if coded:
        return mask_utils.decode(coded).astype(bool)
    left, top, right, bottom = (max(round(side), 0) for side in instance['bbox'])
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def of_label_map(info: Mapping[str, Any], background: Collection[int], ignore_index: int) -> Masks:
    """Pixels of the objects in a label map, and those that are ignored.

    Raises:
        UsageError: the image has no label map.
    """
    labels = label_map(info)
    ignored = np.isin(labels, [ignore_index, 255])      # reduce_zero_label makes 255 of 0
    return ~(np.isin(labels, list(background)) | ignored), ignored


def label_map(info: Mapping[str, Any]) -> np.ndarray:
    """The label map of an image, (H, W) classes; mmseg's steps make 255 of what is ignored by `reduce_zero_label`.

    Raises:
        UsageError: the image has none.
    """
    if not info.get('seg_map_path'):
        raise UsageError(f'{info["img_path"]} has no label map')
    return TRANSFORMS.build(dict(type='LoadAnnotations')).transform(dict(info))['gt_seg_map']
