"""What pyproject.toml cannot say: the files beside the modules, and the page of the package.

MIM and MMEngine look for configs, tools and the index of models in the folder `.mim` of a package. A wheel holds
copies; an editable install links to the checkout.
"""
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
BESIDE = 'configs', 'tools', 'model-index.yml'


class BuildPackage(build_py):
    """Build the package with its folder `.mim`."""

    def run(self) -> None:
        super().run()
        folder = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmattn/.mim'
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        for name in BESIDE:
            if self.editable_mode:
                (folder / name).symlink_to(Path('../..') / name)
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', 'maintenance'))
            else:
                shutil.copy(ROOT / name, folder / name)


def page() -> str:
    """The README without its pictures, and with the names of the pages of the checkout instead of links to them."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    text = re.sub(r'!\[[^]]*\]\([^)]*\)\n\n\*[^*]+\*\n\n', '', text)      # a picture and what is said under it
    return re.sub(r'\[([^]]+)\]\((?!https?://)[^)]*\)', r'\1', text)


setup(cmdclass=dict(build_py=BuildPackage), long_description=page(), long_description_content_type='text/markdown')
