"""The plan of the house, held by a test: floors, file sizes, light imports."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'prm_jax'

# Floor of each room; a file imports from its own room and from floors below.
FLOORS = {
  'errors': 0,
  'jsonl': 1, 'records': 1, 'specs': 1, 'masking': 1, 'step_values': 1,
  'calibration_maps': 1, 'rewards': 1, 'files': 1, 'lease': 1, 'estimates': 1,
  'writer': 1, 'tensors': 1, 'field_types': 1,
  'models': 2, 'parallel': 2, 'formats': 2, 'objectives': 2,
  'data': 3, 'worlds': 3, 'interop': 3, 'checkpoint': 3, 'shards': 3,
  'exports': 3,
  'training': 4, 'inference': 4,
  'evaluation': 5, 'search': 5, 'labeling': 5,
  'jobs': 6,
  'main': 7, '__init__': 7,
}  # fmt: skip
# Neighbours on one floor that may look at each other, each for its reason.
SAME_FLOOR = {
  ('records', 'jsonl'),  # records are read from and written to JSON lines
  ('files', 'jsonl'),
  ('files', 'lease'),
  ('lease', 'jsonl'),
  ('checkpoint', 'shards'),  # what orbax does elsewhere
  ('writer', 'jsonl'),
  ('tensors', 'jsonl'),
  ('step_values', 'masking'),
  ('specs', 'field_types'),  # a spec in a file is of its fields' types
  ('parallel', 'models'),  # shardings derive from the weight declarations
  ('interop', 'exports'),  # a scorer may be an export of ours or a public model
  ('data', 'worlds'),  # the embedded world is a source like any other
}
TOP_LEVEL = {
  'prm_jax', 'configs', 'notebooks', 'tests', 'requirements.txt', 'WORKSPACE.md',
  'README.md', 'LICENSE', 'CITATION.cff', 'pyproject.toml', '.ci', '.gitignore',
}  # fmt: skip


def room(path: Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_rooms(path: Path) -> set[str]:
  rooms = set()
  for node in ast.walk(ast.parse(path.read_text())):
    names = []
    if isinstance(node, ast.Import):
      names = [a.name for a in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
      names = [node.module]
      if node.module == 'prm_jax':
        names = [f'prm_jax.{a.name}' for a in node.names]
    for name in names:
      parts = name.split('.')
      if parts[0] == 'prm_jax' and len(parts) > 1:
        rooms.add(parts[1])
  return rooms


SOURCES = sorted(PACKAGE.rglob('*.py'))


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_below(path):
  here = room(path)
  assert here in FLOORS, f'{here} has no floor yet: name it in FLOORS'
  for other in imported_rooms(path) - {here}:
    assert other in FLOORS, f'{path.name} imports prm_jax.{other}: no such room'
    allowed = FLOORS[other] < FLOORS[here] or (here, other) in SAME_FLOOR
    assert allowed, f'{path.relative_to(ROOT)} imports {other} from above or beside'


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_over_500_lines(path):
  assert len(path.read_text().splitlines()) <= 500


def test_main_is_small():
  assert len((PACKAGE / 'main.py').read_text().splitlines()) < 80


def test_top_level_is_the_plan():
  listed = subprocess.run(
    ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  if listed.returncode:
    pytest.skip('not a git checkout')
  assert {line.split('/')[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


def test_library_code_does_not_see_configs():
  for path in SOURCES:
    if FLOORS[room(path)] < 6:
      assert 'ml_collections' not in path.read_text(), path
      assert 'from absl' not in path.read_text(), path


def test_no_code_from_data():
  for path in SOURCES:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        assert not {a.name for a in node.names} & {'pickle', 'dill', 'marshal'}, path
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        assert node.func.id not in ('eval', 'exec'), f'{path}:{node.lineno}'


@pytest.mark.parametrize('name', ['prm_jax', 'prm_jax.objectives'])
def test_import_is_light(name):
  code = (
    f'import sys, {name}; '
    "print([m for m in ('orbax', 'orbax.checkpoint', 'grain', 'sympy', 'sklearn', "
    "'scipy.stats', 'tensorboardX', 'tokenizers') if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'


def test_public_address_stands_in_one_place():
  import tomllib

  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  address = project['urls']['Repository']
  slug = address.removeprefix('https://github.com/')
  for path in [*ROOT.glob('*.md'), ROOT / 'CITATION.cff', *SOURCES]:
    assert address not in path.read_text(), f'{path.name} repeats the address'
  for path in (ROOT / 'notebooks').glob('*.ipynb'):
    # A notebook is opened from the web, before any clone: its badge and its install
    # cell must name the address, so they are held equal to the one place.
    for found in re.findall(r'github(?:\.com)?/([\w-]+/[\w-]+)', path.read_text()):
      assert found.removesuffix('.git') == slug, path.name


def test_what_users_are_told_to_install_is_there():
  """By its own name: nothing is published under the name of this package, which need
  not be installed to be run, so an extra of it leads nowhere."""
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project'][
    'optional-dependencies'
  ]
  known = {requirement for some in extras.values() for requirement in some}
  found = []
  for path in [*SOURCES, *(ROOT / 'configs').glob('*.py')]:
    text = re.sub(r"'\s*'", '', path.read_text())  # literals side by side are one text
    for words in re.findall(r'pip install((?: "[^"]+"| \S+)+)', text):
      if quoted := re.findall(r'"([^"]+)"', words):
        found += quoted
    assert 'prm_jax[' not in text, path
  assert len(found) >= 6 and set(found) <= known
