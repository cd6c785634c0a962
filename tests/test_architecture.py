"""The rooms of the house: imports point down only, tools are doors, and a name of the package loads what it needs."""
import inspect
import re
import subprocess
import sys

import pytest
from torch import nn

import mmattn
from tests.conftest import ROOT, load

architecture = load(ROOT / 'tools/maintenance/architecture.py')
MODULES, ROOMS, imported, name_of, names_imported, room = (
    getattr(architecture, name) for name in ('MODULES', 'ROOMS', 'imported', 'name_of', 'names_imported', 'room'))


def test_the_page_and_its_picture_are_what_the_code_is():
    page = (ROOT / 'docs/architecture.md').read_text()
    assert architecture.with_table(page) == page
    assert architecture.draw() == (ROOT / 'docs/architecture.svg').read_text()


def test_the_picture_leaves_out_what_other_arrows_imply():
    found = architecture.imports()
    arrows = architecture.without_implied(found)
    assert found['layers'] == {'errors', 'checks', 'ops'}
    assert arrows['layers'] == {'ops'}

    def reached(name):
        return arrows[name].union(*map(reached, arrows[name]))
    assert all(reached(name) >= found[name] for name in ROOMS)


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(architecture.UsageError, match=r'architecture\.md needs the lines'):
        architecture.with_table('# Architecture')


def test_every_room_is_known():
    assert {room(name_of(path)) for path in MODULES} == {'', *ROOMS}


@pytest.mark.parametrize('path', [pytest.param(path, id=name_of(path)) for path in MODULES])
def test_imports_point_down(path):
    own = room(name_of(path))
    below = ROOMS if own == '' else ROOMS[:ROOMS.index(own) + 1]
    upward = [name for name in imported(path) if room(name) not in below]
    assert not upward, f'{own} stands below {upward}'


def test_ops_and_layers_import_torch_and_einops_alone_and_kernels_triton():
    for path in MODULES:
        if room(name_of(path)) in ('ops', 'layers', 'errors', 'checks'):
            packages = {name.split('.')[0] for name in names_imported(path)}
            more = {'triton'} if name_of(path).startswith('mmattn.ops.kernels') else set()
            assert not packages - {'mmattn', 'torch', 'einops'} - more - sys.stdlib_module_names, path


def test_no_command_imports_another():
    for path in (ROOT / 'mmattn/commands').glob('*.py'):
        assert not [name for name in imported(path) if room(name) == 'commands' and name != 'mmattn.commands.options']


def test_tools_are_doors_to_the_commands():
    from mmattn.__main__ import COMMANDS
    doors = {path.stem: path for path in (ROOT / 'tools').glob('*.py')}
    assert {name.replace('_', '-') for name in doors} == set(COMMANDS)
    assert {path.stem for path in (ROOT / 'mmattn/commands').glob('*.py')} == {*doors, '__init__', 'options'}
    for name, path in doors.items():
        assert path.read_text() == ('from mmattn.__main__ import main\n\nif __name__ == \'__main__\':\n'
                                    f'    main({name.replace("_", "-")!r})\n')


def test_nothing_puts_a_folder_on_the_path():
    for path in [*MODULES, *(ROOT / 'tools').rglob('*.py'), *(ROOT / 'tools').rglob('*.sh')]:
        assert 'sys.path' not in path.read_text(), path
        assert 'PYTHONPATH' not in path.read_text(), path


def test_commands_are_listed_and_a_misspelt_one_is_refused(capsys):
    from mmattn.__main__ import COMMANDS, main
    with pytest.raises(SystemExit) as end:
        main(arguments=['--help'])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf'^  {name} +{re.escape(what)}$', printed, re.MULTILINE) for name, what in COMMANDS.items())
    with pytest.raises(SystemExit) as end:
        main(arguments=['trian', 'config.py'])
    assert end.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_python_m_mmattn_is_the_same_as_the_door():
    outputs = [subprocess.run([sys.executable, *command, '/none.py'], cwd=ROOT, capture_output=True, text=True,
                              check=False) for command in (['-m', 'mmattn', 'get_flops'], ['tools/get_flops.py'])]
    assert {done.returncode for done in outputs} == {2}
    assert {done.stderr.splitlines()[-1] for done in outputs} == {'error: config not found: /none.py'}


@pytest.mark.parametrize('name', mmattn.__all__)
def test_public_names(name):
    assert getattr(mmattn, name) is not None
    assert name in dir(mmattn)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'mmattn' has no attribute 'Dat'"):
        mmattn.Dat  # noqa: B018


def public_modules():
    from mmattn import backbones, layers, necks
    return {name: getattr(room, name) for room in (backbones, layers, necks) for name in room.__all__
            if isinstance(getattr(room, name), type) and issubclass(getattr(room, name), nn.Module)}


@pytest.mark.parametrize('name', public_modules())
def test_arguments_after_the_first_two_are_keywords(name):
    kinds = [p.kind for p in inspect.signature(public_modules()[name]).parameters.values()]
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD,
                  inspect.Parameter.VAR_POSITIONAL}
    # A norm is PyTorch's own, and takes what that takes.
    assert name == 'LayerNorm2d' or sum(kind in positional for kind in kinds) <= 2
