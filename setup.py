import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r"__version__ = '(.+)'", (here / 'mmattn' / '__init__.py').read_text())[1]

setup(
    name='mmattn',
    version=version,
    description='DAT, CrossFormer and BiFormer attention for dense prediction with OpenMMLab',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmattn', 'mmattn.*']),
    package_data={'mmattn.visualization': ['viewer.html']},
    python_requires='>=3.10',
    install_requires=['torch>=2.6', 'einops>=0.7'],
    extras_require={
        # Two distributions with the same import names: install one of them.
        'onedl': ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6', 'onedl-mmdetection>=3.5.1',
                  'onedl-mmsegmentation>=1.4.2'],
        'openmmlab': ['mmengine>=0.10.7', 'mmcv>=2.1,<2.2', 'mmdet>=3.3', 'mmsegmentation>=1.2.2', 'ftfy', 'regex'],
        'export': ['onnxscript', 'onnxruntime'],
        'test': ['hypothesis', 'pytest', 'pytest-xdist', 'ruff', 'onnxscript', 'onnxruntime', 'playwright'],
    },
)
