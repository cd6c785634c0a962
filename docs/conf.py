"""The pages as a site: make docs. Pages that lie elsewhere in the project are copied below `project`."""
import os
import re
from pathlib import Path, PurePosixPath

from mmattn import __version__

HERE = Path(__file__).parent
ROOT = HERE.parent
# Pages of the site that are files of the project, by their names without a suffix.
PAGES = {
    'index': 'README.md', 'project/contributing': 'CONTRIBUTING.md', 'project/changelog': 'CHANGELOG.md',
    **{f'project/{folder}': f'configs/{folder}/README.md'
       for folder in ('dat', 'crossformer', 'biformer', 'debiformer', 'imagenet', 'heads')}}
LINK = re.compile(r'(\]\()([^)#:\s]+)((?:#[^)]*)?\))')

project = 'mmattn'
copyright = 'the mmattn contributors'
release = version = __version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode', 'sphinx_copybutton',
              'sphinx-mathjax-offline']      # formulas without a network
exclude_patterns = ['_build']
suppress_warnings = ['myst.header']         # pages for readers of the repository may skip a level
html_theme = 'furo'
html_title = 'mmattn'
myst_heading_anchors = 4
nb_execution_mode = 'off'                   # the notebook holds its outputs: make notebook
myst_enable_extensions = ['dollarmath']
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'                  # the signature has them
napoleon_custom_sections = ['Shapes', 'Shapes, errors', 'Args, shapes and errors']
copybutton_exclude = '.linenos, .gp, .go'


def moved_links(text, source, page):
    """The text of a page with its links as they are in the site.

    Args:
        text: Markdown.
        source: where it lies in the project.
        page: its name in the site.
    """
    pages = {file: f'docs/{name}.md' for name, file in PAGES.items()}

    def moved(match):
        target = os.path.normpath(PurePosixPath(source).parent / match[2])
        there = pages.get(target, target)
        return match[1] + os.path.relpath(there, PurePosixPath(f'docs/{page}').parent) + match[3]

    return LINK.sub(moved, text)


def write_pages():
    """Copy what lies elsewhere."""
    for page, source in PAGES.items():
        path = HERE / f'{page}.md'
        path.parent.mkdir(exist_ok=True)
        text = moved_links((ROOT / source).read_text(), source, page)
        path.write_text(text + (HERE / 'contents.txt').read_text() * (page == 'index'))


def move_links(app, page, source):
    """Links of the pages that are here."""
    if page not in PAGES:
        source[0] = moved_links(source[0], f'docs/{page}.md', page)


def setup(app):
    write_pages()
    app.connect('source-read', move_links)
