"""The code on the pages of docs runs and prints what it says."""
import re
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT

LEFT_OUT = 'data', 'camvid', 'index'     # a config, a script that needs data, what the site makes of the README
BLOCKS = [(path.stem, block) for path in sorted((ROOT / 'docs').glob('*.md')) if path.stem not in LEFT_OUT
          for block in re.findall(r'```python\n(.*?)```', path.read_text(), re.DOTALL)]
OPTIONAL = 'ultralytics', 'mmyolo'


@pytest.mark.parametrize(('page', 'block'), [
    pytest.param(page, block, id=f'{page}-{i}',
                 marks=pytest.mark.slow if page == 'export' or 'scenes.write' in block else [])
    for i, (page, block) in enumerate(BLOCKS)])
def test_code_prints_what_it_says(run, tmp_path, page, block):
    for module in OPTIONAL:
        if re.search(rf'^(import|from) {module}', block, re.MULTILINE) and find_spec(module) is None:
            pytest.skip(f'{module} is not installed')
    printed = run('-c', block, cwd=tmp_path).stdout.strip().splitlines()
    said = re.findall(r'^(?:print.*\)\s+)?# (\S.*)$', block, re.MULTILINE)
    assert said
    assert printed[-len(said):] == said     # some libraries greet first
