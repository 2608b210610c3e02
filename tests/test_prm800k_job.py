"""configs/prm800k.py end to end on the first rows of the real files."""

import json
import os
from pathlib import Path

import pytest

from prm_jax import main

DATA = os.environ.get('PRM_JAX_DATA', '')
CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
TEST = 'prm800k/phase1_test.stepwise-critic.jsonl.gz:prm800k_steps'
TINY = {
  'data.limit': 200,
  'data.validation_share': 0.3,
  'data.evaluate': f'phase1_test={TEST}, pb_gsm8k=processbench/gsm8k.json:processbench',
  'format.max_length': 256,
  'model.n_layers': 1,
  'model.windowed_layers': (False,),
  'model.d_model': 16,
  'model.n_heads': 2,
  'model.n_kv_heads': 2,
  'model.head_dim': 8,
  'model.d_ff': 16,
  'train.steps': 2,
  'train.validate_every': 0,
  'evaluate.resamples': 10,
}


def run(config, workdir, values):
  flags = [f'--config.{key}={value}' for key, value in values.items()]
  place = [f'--config={CONFIGS / config}', f'--workdir={workdir}']
  return main.main(['prm_jax', *place, *flags])


def test_validation_is_named_or_held_out_not_both(tmp_path, capfd):
  values = {'data.validation_share': 0.1, 'train.steps': 1}
  assert run('bce.py', tmp_path, values) == 2
  said = capfd.readouterr().err
  assert 'data.validation_share=0.1' in said and 'leave one out' in said


@pytest.mark.skipif(
  not DATA or not os.path.isdir(f'{DATA}/prm800k'),
  reason='set PRM_JAX_DATA to the folder that holds prm800k and processbench',
)
def test_prm800k_trains_and_is_measured(tmp_path):
  words = tmp_path / 'tokenizer.json'
  made = {'input': TEST, 'output': words, 'vocab_size': 600}
  assert run('tokenizer.py', tmp_path / 'words', made) == 0
  assert run('prm800k.py', tmp_path / 'run', {**TINY, 'tokenizer': words}) == 0
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  metrics, counters = results['metrics'], results['counters']
  for name in ('phase1_test', 'pb_gsm8k'):
    assert metrics[f'{name}/steps/auroc']['n'] > 0
    assert 0 < metrics[f'{name}/steps/auroc[baseline_position_length]']['value'] < 1
    assert f'{name}/process_bench/f1@tuned:validation' in metrics
  # Loss once a (prefix, step), context elsewhere; no problem on both sides.
  assert counters['train/phase1_train_plus/labels/context_labels'] > 0
  assert counters['phase1_test/problems_shared_with_train'] == 0
  assert counters['pb_gsm8k/problems_shared_with_train'] == 0
  assert 'train/leak/validation' not in counters
