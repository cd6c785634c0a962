"""The notebook of the pages runs from top to bottom."""
import os
import sys

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')
NOTEBOOK = nbformat.read(ROOT / 'docs/tour.ipynb', as_version=4)


def texts(cell):
    """What a cell printed."""
    return ''.join(output.get('text', '') for output in cell.outputs)


def test_its_outputs_are_kept_and_none_is_an_error():
    code = [cell for cell in NOTEBOOK.cells if cell.cell_type == 'code' and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == 'error']
    assert 'error:' not in ''.join(map(texts, code))


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    script = tmp_path / 'bin' / 'mmattn'
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m mmattn "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv('PATH', f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('TRITON_INTERPRET', '0')
    client = nbclient.NotebookClient(NOTEBOOK, timeout=1800, resources={'metadata': {'path': tmp_path}})
    done = client.execute()
    last = [cell for cell in done.cells if cell.cell_type == 'code'][-1]
    assert 'onnxruntime' in texts(last)
    assert 'error:' not in ''.join(texts(cell) for cell in done.cells if cell.cell_type == 'code')
