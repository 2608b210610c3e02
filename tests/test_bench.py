"""Bench: real work in turns with a command, and what happens when it misbehaves."""

import json
import os
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
from often import often

from prm_jax import main
from prm_jax.jobs import bench_flops, bench_work
from prm_jax.jobs.bench_flops import Cost
from prm_jax.jobs.configuration import parse
from prm_jax.models import weights
from prm_jax.models.lm import HEAD
from prm_jax.parallel import pages
from prm_jax.specs import HeadSpec, ModelSpec

TINY = {
  'bench_length': 32, 'bench_rows': 8, 'bench_pairs': 2, 'bench_repeats': 1,
  'bench_steps': 2, 'bench_samples': 2, 'bench_peak_flops': 1e12,
  'bench_bandwidth': 1e10, 'model.n_layers': 1, 'model.d_model': 16,
  'model.n_heads': 2, 'model.n_kv_heads': 1, 'model.head_dim': 8, 'model.d_ff': 32,
  'text.max_length': 256, 'sampling.max_tokens': 4, 'engine.slots': 8,
  'engine.group': 2, 'train.batch_size': 8,
}  # fmt: skip


def bench(mode, tmp_path, **keys):
  """Exit code of a run, and what it wrote."""
  keys = {**TINY, 'output': tmp_path / 'out.jsonl', **keys}
  words = [f'--config.{k}={v}' for k, v in keys.items()]
  code = main.main(['prm_jax', f'--config=configs/bench.py:{mode}', *words])
  out = keys['output']
  return code, json.loads(out.read_text()) if out.exists() else {}


def python(code):
  return shlex.join([sys.executable, '-c', code])


SAYS = {
  'score': {
    'tokens': 256,
    'single_pass': {'tokens_per_s': 2, 'cpu_s': 3, 'score_s': 2},
  },
  'train': {'tokens_per_s': 5.0, 'cpu_s_per_step': 4, 'step_s': 2, 'steps': 2},
  'sample': {'new_tokens_per_s': 5.0, 'new_tokens': 63},
  'mc': {'new_tokens_per_s': 5.0, 'samples': 2},
}


@pytest.mark.slow
@pytest.mark.parametrize('mode', SAYS)
def test_in_turns_with_a_command(mode, tmp_path):
  log = tmp_path / 'turns'
  said = json.dumps(SAYS[mode])
  says = python(f'open({str(log)!r}, "a").write("x"); print("noise"); print({said!r})')
  code, rows = bench(mode, tmp_path, peer_command=says)
  assert code == 0
  assert log.read_text() == 'xx'
  unit = 'new tokens' if mode in ('sample', 'mc') else 'tokens'
  mine = rows[f'ours: {unit} a second']
  theirs = rows[f'peer: {unit} a second']['value']
  assert theirs == SAYS[mode].get('single_pass', SAYS[mode]).get(
    'tokens_per_s', SAYS[mode].get('new_tokens_per_s')
  )
  assert mine['low'] <= mine['value'] <= mine['high']
  assert rows['ratio of medians'] == pytest.approx(mine['value'] / theirs)
  pairs = rows['ratio of each pair, median [least, most]']
  assert pairs['low'] * theirs == pytest.approx(mine['low'])
  if mode in ('score', 'train'):
    cores = {'score': 1.5, 'train': 2}[mode]
    rate = rows[f'peer: {unit} a CPU second']['value']
    assert rate == pytest.approx(theirs / cores)
  same = {k: v for k, v in rows.items() if k.endswith('ours, peer')}
  assert len(same) == 1
  [word] = same.values()
  assert word.endswith('DIFFERENT WORK' if mode == 'sample' else 'the same')
  assert 0 < rows['model FLOPs / peak'] < 1
  assert ('memory bandwidth / peak' in rows) == (mode in ('sample', 'mc'))
  assert rows['command'].startswith('python -m prm_jax.main')


WRONG = [
  ('/no/such/program', {}, 'cannot be run'),
  (python('raise SystemExit("no memory")'), {}, 'exit code 1 (no memory)'),
  (python('print("fast")'), {}, "no JSON object but 'fast'"),
  (python('print([1])'), {}, 'no JSON object'),
  (python('pass'), {}, "but 'nothing'"),
  (python('print("{\\"a\\": {\\"b\\": 1}}")'), {}, 'it has a.b'),
  (python('print("{\\"r\\": true}")'), {'peer_figure': 'r'}, 'it has none'),
  (python('import time; time.sleep(9)'), {'peer_timeout': 0.2}, 'peer_timeout=0.2'),
]


@pytest.mark.parametrize(
  'command, keys, said', often(WRONG, WRONG[0], WRONG[1], WRONG[5], WRONG[7])
)
def test_a_command_that_misbehaves(command, keys, said, tmp_path, capsys):
  code, rows = bench('score', tmp_path, peer_command=command, bench_pairs=1, **keys)
  assert code == 2 and not rows
  last = capsys.readouterr().err.strip().splitlines()[-1]
  assert said in last and last.endswith('.')


@pytest.mark.slow
def test_probabilities_are_compared(tmp_path, capsys):
  dump = tmp_path / 'dump.jsonl'
  dump.write_text(json.dumps({'probs': [0.5]}) + '\n')
  code, _ = bench('score', tmp_path, peer_dump=dump, bench_pairs=1)
  assert code == 2 and 'score the same solutions' in capsys.readouterr().err
  code, _ = bench('train', tmp_path, peer_dump=dump, bench_pairs=1)
  assert code == 2 and 'leave it out' in capsys.readouterr().err
  n_steps = 3
  dump.write_text((json.dumps({'probs': [0.5] * n_steps}) + '\n') * TINY['bench_rows'])
  code, rows = bench('score', tmp_path, peer_dump=dump, bench_pairs=1)
  assert code == 0 and 0 < rows['largest difference of a step value'] < 0.5


def test_flops_are_those_of_the_matrices():
  spec = ModelSpec(50, n_layers=2, d_model=8, n_heads=2, n_kv_heads=1, head_dim=4,
                   d_ff=6)  # fmt: skip
  layer = 8 * 8 * 2 + 2 * 8 * 4 + 3 * 8 * 6
  assert bench_flops.matrix_elements(spec, HEAD) == 2 * layer + 50 * 8
  assert bench_flops.matrix_elements(spec, HeadSpec()) == layer + 2 * 8 * 4
  matrices = sum(
    w.size for path, w in weights.flatten(weights.layer(spec, 0)) if path[0] == 'w'
  )
  assert matrices == layer
  keys = bench_flops.keys_seen(np.array([3, 1]))
  assert keys == (1 + 2 + 3 + 1) / 4
  assert bench_flops.forward(spec, HEAD, keys) == (
    2 * (2 * layer + 400) + 4 * 2 * 8 * keys
  )
  assert bench_flops.cache_bytes(spec) == 2 * 2 * 4 * 4


@pytest.mark.parametrize(('mode', 'n'), [('score', 8), ('train', 8), ('sample', 1)])
def test_peaks_are_of_the_devices_that_work(mode, n, monkeypatch):
  keys = {**TINY, 'bench_peak_flops': 0.0, 'bench_bandwidth': 0.0}
  words = [f'--config.{k}={v}' for k, v in keys.items()]
  config = parse(['prm_jax', f'--config=configs/bench.py:{mode}', *words]).config
  work = bench_work.WORKS[mode](config)
  kind = jax.local_devices()[0].device_kind
  monkeypatch.setattr(bench_flops, 'DEVICES', ((kind, 1e12, 1e10),))
  found = bench_flops.figures(config, Cost(1e6, 1e3), 1e5, work.devices)
  assert found['peak FLOP/s (data sheet, dense bfloat16)'] == n * 1e12
  assert found['memory bandwidth / peak'] == pytest.approx(1e8 / (n * 1e10))


def test_the_program_starts_again_with_large_pages():
  code = (
    'import os, sys; from prm_jax.parallel import pages; pages.start_again(); '
    'print(os.environ["GLIBC_TUNABLES"], "GLIBC_TUNABLES" in pages.environment(), '
    'sys.argv[1:])'
  )
  plain = {
    k: v for k, v in os.environ.items() if k not in (pages.VARIABLE, pages.BEFORE)
  }
  run = lambda env: subprocess.run(
    [sys.executable, '-c', code, 'a', 'b'], env=env, capture_output=True, text=True,
    check=True,
  ).stdout.split()  # fmt: skip
  assert run(plain) == ['glibc.malloc.hugetlb=1', 'False', "['a',", "'b']"]
  theirs = 'glibc.malloc.hugetlb=0'
  assert run({**plain, pages.VARIABLE: theirs})[:2] == [theirs, 'True']
