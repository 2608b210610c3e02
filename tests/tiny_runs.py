"""Runs of the command line small enough for tests, in this process or another."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax

from prm_jax import main as program

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / 'configs' / 'embedded.py')
# One shape of batches, one of scoring: every run of the tests shares them.
TINY = {
  'train.steps': 6,
  'train.batch_size': 8,
  'train.validate_every': 0,
  'model.n_layers': 1,
  'model.d_model': 16,
  'model.n_heads': 2,
  'model.n_kv_heads': 1,
  'model.head_dim': 8,
  'model.d_ff': 32,
  'format.max_length': 48,
  'world.min_ops': 4,
  'world.max_ops': 4,
  'world.n_validation': 24,
  'world.n_heldout': 24,
  'world.pool_problems': 4,
  'world.pool_size': 4,
  'data.evaluate': 'heldout=world:heldout',
  'data.pools': '',
  'evaluate.resamples': 10,
  'evaluate.subsets': 4,
  'optimizer.warmup_steps': 2,
  'logging.every_steps': 2,
}
# A run that only trains.
BARE = {'data.validation': '', 'data.evaluate': '', 'report': False}


def arguments(workdir, config=BASE, tiny=TINY, **overrides):
  """argv of a run; keys of `overrides` have __ for the dot."""
  values = {**tiny, **{k.replace('__', '.'): v for k, v in overrides.items()}}
  words = [f'--config.{k}={v}' for k, v in values.items()]
  place = [] if workdir is None else [f'--workdir={workdir}']
  return ['prm_jax', f'--config={config}', *place, *words]


def tool(job, **overrides):
  """argv of a job that only needs its own keys."""
  return arguments(None, tiny={'job': job}, **overrides)


def run(argv):
  """Exit code of `main`."""
  return program.main(argv)


def refusal(argv, capsys, code=2):
  """The one sentence of a run that is refused; checks code and form."""
  capsys.readouterr()
  assert run(argv) == code
  captured = capsys.readouterr()
  assert 'Traceback' not in captured.err + captured.out
  lines = [
    line
    for line in captured.err.splitlines()
    if not line.startswith('prm_jax: python -m prm_jax.main')
  ]
  assert lines and lines[-1].startswith('prm_jax: ') and len(lines[-1]) > 20
  return lines[-1].removeprefix('prm_jax: ')


def environment(devices=1):
  """Variables of a child process: CPU, this source tree, the compilation cache."""
  return {
    **os.environ,
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_COMPILATION_CACHE_DIR': str(jax.config.jax_compilation_cache_dir or ''),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }


def start(argv, **options):
  """A child process of the same command; standard error is kept as text."""
  return subprocess.Popen(
    [sys.executable, '-m', 'prm_jax.main', *argv[1:]],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    env=environment(), cwd=ROOT, **options,
  )  # fmt: skip


def finish(process, timeout=300):
  """(exit code, standard error) of a child process."""
  _, err = process.communicate(timeout=timeout)
  return process.returncode, err


def results(workdir):
  """Parsed results.json."""
  return json.loads((Path(workdir) / 'results.json').read_text())


def promised(workdir):
  """{what: content, of files its hash} of everything that a resumed run must repeat bit
  for bit."""
  work = Path(workdir)
  held = results(work)
  lines = (work / 'metrics.jsonl').read_text().splitlines()
  samples = work / 'samples'
  return {
    'parameters': _digest(work / 'scorer' / 'model.safetensors'),
    'spec': _digest(work / 'scorer' / 'spec.json'),
    'metrics.jsonl': [
      {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
      for line in lines
    ],
    'metrics': held['metrics'],
    'counters': held['counters'],
    **{
      f'samples/{f.name}': _digest(f)
      for f in (sorted(samples.iterdir()) if samples.is_dir() else [])
    },
  }


def _digest(file):
  return hashlib.sha256(file.read_bytes()).hexdigest()


def contents(folder):
  """{relative path: bytes} of every file of a folder."""
  root = Path(folder)
  return {
    str(f.relative_to(root)): f.read_bytes()
    for f in sorted(root.rglob('*'))
    if f.is_file()
  }


def write_lines(path, rows):
  """JSON lines, zipped where the name says so; a row may be raw text or bytes."""
  raw = b''
  for row in rows:
    line = row if isinstance(row, (str, bytes)) else json.dumps(row)
    raw += (line if isinstance(line, bytes) else line.encode()) + b'\n'
  data = gzip.compress(raw) if str(path).endswith('.gz') else raw
  Path(path).write_bytes(data)
  return str(path)


def record(i, **changes):
  """A training row as a user might write it: four steps, wrong from the third on;
  as long as a row of the embedded world."""
  row = {
    'id': f'row-{i}',
    'problem_id': f'problem-{i}',
    'question': f'{i}+1=?',
    'steps': [f'{i}+1', '=1', f'+{i}', f'={i + 2}'],
    'labels': {
      'human': {'kind': 'correctness', 'how': {'by': 'hand'}, 'values': [1, 1, 0, 0]}
    },
    'first_error': {'human': 2},
    'verdicts': {'exact': {'value': i % 2 == 0}},
  }
  return {**row, **changes}
