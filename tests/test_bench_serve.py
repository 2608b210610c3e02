"""The server's rate beside that of the score job, on a tiny scorer."""

import json

import pytest
from test_bench import TINY

from prm_jax import main


@pytest.mark.slow
def test_clients_get_the_same_scores(tmp_path):
  out = tmp_path / 'out.jsonl'
  keys = {**TINY, 'bench_length': 128, 'bench_pairs': 1, 'output': out}
  words = [f'--config.{k}={v}' for k, v in keys.items()]
  assert main.main(['prm_jax', '--config=configs/bench.py:serve', *words]) == 0
  told = json.loads(out.read_text())
  assert told['the same scores on both sides'] is True
  assert told['solutions'] == 8
  for n in (1, 8, 64):
    assert told[f'server, {n} clients / score job']['value'] > 0
