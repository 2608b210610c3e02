"""The notebooks: their manners, and that they run from top to bottom."""

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
# Config files that a notebook joins into a path, and keys that it must name.
NAMED = {
  '01_quickstart': ({'pqm.py', 'inspect.py'}, {'data.train', 'train.steps'}),
  '02_from_trl_and_openrlhf': (
    {'finetune.py', 'export.py'},
    {'format.marker', 'head.label_tokens', 'optimizer.peak_lr', 'parallel.fsdp'},
  ),
}
MOST_LINES = 25
SECONDS_PER_CELL = 600
NUMBER = r'-?\d+\.\d+'


@pytest.fixture(scope='module', params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
  return request.param


@pytest.fixture(scope='module')
def notebook(path):
  return json.loads(path.read_text('utf-8'))


@pytest.fixture(scope='module')
def text(notebook):
  return '\n'.join(''.join(c['source']) for c in notebook['cells'])


def code_of(notebook):
  return [''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == 'code']


def is_magic(line):
  return line.lstrip().startswith(('!', '%'))


def plain(source):
  """Parsed, with IPython's own lines left out."""
  lines = source.splitlines()
  kept = [re.sub(r'\S.*', 'pass', x) if is_magic(x) else x for x in lines]
  return ast.parse('\n'.join(kept))


def test_is_a_notebook_without_outputs(notebook):
  assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
  assert notebook['metadata']['kernelspec']['name'] == 'python3'
  ids = [cell['id'] for cell in notebook['cells']]
  assert len(set(ids)) == len(ids)
  for cell in notebook['cells']:
    assert cell['cell_type'] in ('markdown', 'code')
    assert all(isinstance(line, str) for line in cell['source'])
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == [] and cell['execution_count'] is None, cell['id']


def test_cells_are_short_and_are_python(notebook):
  for source in code_of(notebook):
    assert 0 < len(source.splitlines()) <= MOST_LINES, source
    plain(source)


def test_first_code_cell_installs_and_no_other_does(notebook):
  first, *others = code_of(notebook)
  lines = first.splitlines()
  magic = [x for x in lines if is_magic(x)]
  assert [x.split()[0] for x in magic] == ['!git', '%pip']
  # Both stand under the one condition: nothing happens where the library is there.
  condition = lines[lines.index(magic[0]) - 1]
  assert condition == "if importlib.util.find_spec('prm_jax') is None:"
  assert all(x.startswith('  ') for x in magic)
  # The ranges of pyproject.toml decide, so that a jax that is there stays.
  install = magic[1].split()
  assert install[1:] == ['install', '-q', '-e', './prm_jax']
  assert not any(is_magic(x) for source in others for x in source.splitlines())


def test_address_is_that_of_pyproject(path, notebook):
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  address = project['urls']['Repository']
  slug = address.removeprefix('https://github.com/')
  badge = f'https://colab.research.google.com/github/{slug}/blob/main/notebooks/'
  assert f'({badge}{path.name})' in ''.join(notebook['cells'][0]['source'])
  clone = next(x for x in code_of(notebook)[0].splitlines() if is_magic(x))
  assert clone.split()[-1] == address


def test_what_it_names_is_there(path, notebook, text):
  from configs import base

  for source in code_of(notebook):
    for node in ast.walk(plain(source)):
      if isinstance(node, ast.ImportFrom) and node.module.startswith('prm_jax'):
        module = importlib.import_module(node.module)
        for alias in node.names:
          if not hasattr(module, alias.name):
            importlib.import_module(f'{node.module}.{alias.name}')
  files, wanted = NAMED[path.stem]
  assert all(f"'{name}'" in text for name in files)
  for name in {*re.findall(r'configs/(\w+\.py)', text), *files}:
    assert (ROOT / 'configs' / name).exists(), name
  for name in re.findall(r'\b[A-Z]+\.md\b', text):
    assert (ROOT / name).exists(), name
  config = base.get_config()
  keys = {*re.findall(r'--config\.([\w.]+)=', text)}
  keys |= {*re.findall(r"'(\w+\.\w+)':", text)}
  sections = {name for name, held in config.items() if isinstance(held, ConfigDict)}
  dotted = re.findall(r'`(\w+\.\w+)`', text)
  keys |= {key for key in dotted if key.split('.')[0] in sections}
  assert wanted <= keys
  for key in keys:
    section = config
    for part in key.split('.'):
      assert part in section, key
      section = section[part]


@pytest.mark.slow
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
  nbclient = pytest.importorskip(
    'nbclient', reason="nbclient is not installed: pip install -e '.[notebook]'"
  )
  nbformat = pytest.importorskip('nbformat')
  pytest.importorskip('ipykernel', reason='no ipykernel: there is no kernel to run in')
  found = nbformat.read(path, as_version=4)
  nbformat.validate(found)
  for name, value in {
    'PRM_JAX_SMOKE': '1',
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(jax.config.jax_compilation_cache_dir or ''),
    'TMPDIR': str(tmp_path),
    'IPYTHONDIR': str(tmp_path / 'ipython'),
  }.items():
    monkeypatch.setenv(name, value)
  client = nbclient.NotebookClient(
    found,
    timeout=SECONDS_PER_CELL,
    kernel_name='python3',
    resources={'metadata': {'path': str(path.parent)}},
  )
  client.execute()  # raises at the first cell that fails

  def printed(part):
    cell = next(c for c in found.cells if c.cell_type == 'code' and part in c.source)
    kinds = [o.output_type for o in cell.outputs]
    assert cell.outputs and 'error' not in kinds, part
    return ''.join(
      o.get('text', '') or o.get('data', {}).get('text/html', '') for o in cell.outputs
    )

  assert 'smoke mode' in printed('SMOKE =')
  SHOWN[path.stem](printed)


def quickstart(printed):
  assert 'GiB' in printed('SMOKE =')
  assert 'results.json' in printed('from prm_jax.main import main')
  scores = re.findall(NUMBER, printed('prm_jax.score('))
  assert len(scores) == 8 and len(set(scores)) > 1
  widget = printed('report.widget(')
  assert 'srcdoc=' in widget and 'sandbox=' in widget
  frame = printed('report.LineChart(')
  assert 'srcdoc=' in frame and 'Finding the first wrong step' in frame
  assert 'best of N' in frame and 'position and length alone' in frame
  assert len(re.findall(NUMBER, printed('prm_min-majority'))) == 3
  assert printed('objectives.q_ranking').count('gradient') == 3
  assert '<- step 1: 0' in printed("'inspect.py'")
  assert "field 'labels' has 3 labels for 2 steps" in printed('broken =')
  assert 'exit code 2' in printed('broken =')


def migration(printed):
  assert '(1.0, 0.3)' in printed('trl_row =') and '(1.0, 0.0)' in printed('trl_row =')
  refused = printed('broken =')
  assert "field 'labels' has 3 labels for 2 steps" in refused
  assert "field 'labels[0]' is -100" in refused
  assert "field 'value' has 2 labels for 1 markers 'ки'" in refused
  assert 'text_after_last_marker 1' in refused
  assert int(re.search(r'would call (\d+) of', printed('soft ='))[1]) > 0
  table = printed("'job': 'inspect'")
  assert "'\\n'" in table and '<- step 0: 1' in table and '<- step 1: 0.3' in table
  for part in ('words.bos_id, *words.encode', "words.token_id('ки')"):
    assert '50 rows: same ids' in printed(part)
  assert len(re.findall(NUMBER, printed("'process_bench/f1@tuned"))) == 4 * 3 + 8
  assert 'Qwen2ForTokenClassification' in printed("told['architectures']")
  for part in ("adapter='trl'", 'exports.save_scorer'):
    assert 'largest difference' in printed(part)


SHOWN = {'01_quickstart': quickstart, '02_from_trl_and_openrlhf': migration}
