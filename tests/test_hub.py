"""Models by name from a Hub on loopback: what is fetched, and what goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest

from prm_jax.errors import UserError
from prm_jax.interop import hub

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip('huggingface_hub', reason='needs the extra prm_jax[hub]')

FILES = {
  'config.json': b'{"model_type": "qwen2"}',
  'model.safetensors': b'weights',
  'tokenizer.json': b'{}',
  'chat_template.jinja': b'{{ messages }}',
  'pytorch_model.bin': b'pickle',
  'training_args.bin': b'pickle',
  'modeling_qwen2_rm.py': b'raise SystemExit("code of the checkpoint ran")',
  'consolidated.safetensors': b'again',
  'original/model.safetensors': b'again',
}
CODE = """
import sys
from prm_jax.errors import UserError
from prm_jax.interop import hub
try:
  folder = hub.resolve(sys.argv[1])
  print(folder, hub.revision(folder))
except UserError as e:
  print('refused:', e)
"""


@pytest.fixture(scope='module')
def served():
  server = hub_server.Hub('owner/some-prm', FILES)
  yield server
  server.close()


def resolve(name, address, home):
  """What another process says; the library reads its environment when it loads."""
  env = {**os.environ, 'HF_ENDPOINT': address, 'HF_HOME': str(home)}
  env.pop('HF_HUB_OFFLINE', None)
  done = subprocess.run(
    [sys.executable, '-c', CODE, name],
    cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120,
  )  # fmt: skip
  return done.stdout.strip()


def test_a_snapshot_holds_no_pickle_and_no_code(served, tmp_path):
  said = resolve('hf:owner/some-prm@main', served.address, tmp_path)
  folder, revision = said.split()
  assert revision == served.commit
  wanted = {
    'config.json', 'model.safetensors', 'tokenizer.json', 'chat_template.jinja',
  }  # fmt: skip
  assert {p.name for p in Path(folder).iterdir()} == wanted == set(served.asked)
  assert (Path(folder) / 'model.safetensors').read_bytes() == b'weights'
  # Without a network the copy in the cache serves.
  assert resolve('hf:owner/some-prm@main', 'http://127.0.0.1:9', tmp_path) == said
  again = resolve('hf:owner/some-prm@none', served.address, tmp_path)
  assert again == (
    'refused: hf:owner/some-prm@none: there is no such revision of the model.'
  )


def test_what_cannot_be_fetched_is_said_in_one_sentence(served, tmp_path):
  said = resolve('hf:owner/other', served.address, tmp_path)
  assert said.startswith('refused: hf:owner/other: there is no such model')
  said = resolve('hf:owner/some-prm', 'http://127.0.0.1:9', tmp_path / 'empty')
  assert said.startswith('refused: hf:owner/some-prm: cannot be fetched')
  assert '\n' not in said and 'folder of a copy' in said


@pytest.mark.parametrize('name', ['hf:', 'hf:name', 'hf:a/b/c', 'hf:a/b@', 'hf:a b/c'])
def test_malformed_names(name):
  with pytest.raises(UserError, match='write hf:OWNER/NAME'):
    hub.resolve(name)


def test_paths_are_left_alone(tmp_path):
  assert hub.resolve(tmp_path) == str(tmp_path) and not hub.revision(tmp_path)


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(UserError, match=r'pip install "huggingface_hub>=0\.30"'):
    hub.resolve('hf:owner/name')
