"""configs/pools.py: public scores on real pools, against published reference points."""

import json
import os
from pathlib import Path

import pytest
from tiny_runs import arguments, refusal, results, run, write_lines

from prm_jax import main

DATA = os.environ.get('PRM_JAX_DATA', '')
CONFIG = Path(__file__).resolve().parent.parent / 'configs' / 'pools.py'

# Best of 32, ties to the lowest index, judged by the regraded verdicts:
# min, last, mean.
REFERENCE = {
  ('gsm8k', 'qwen_prm'): (0.918, 0.922, 0.922),
  ('gsm8k', 'skywork_prm'): (0.898, 0.936, 0.918),
  ('gsm8k', 'skywork_prm_1_5b'): (0.882, 0.902, 0.902),
  ('gsm8k', 'math_shepherd'): (0.882, 0.872, 0.880),
  ('gsm8k', 'rlhflow_prm'): (0.878, 0.872, 0.886),
  ('gsm8k', 'internlm2_7b_reward'): (0.872, 0.914, 0.872),
  ('gsm8k', 'internlm2_1_8b_reward'): (0.848, 0.874, 0.872),
  ('math500', 'qwen_prm'): (0.842, 0.814, 0.834),
}


@pytest.mark.skipif(
  not DATA or not os.path.isdir(f'{DATA}/bon_pools'),
  reason='set PRM_JAX_DATA to the folder that holds bon_pools',
)
def test_the_config_recomputes_the_reference_points(tmp_path):
  command = ['prm_jax', f'--config={CONFIG}', f'--workdir={tmp_path}']
  lean = ['--config.evaluate.resamples=20', '--config.evaluate.subsets=2']
  assert main.main([*command, *lean]) == 0
  metrics = json.loads((tmp_path / 'results.json').read_text())['metrics']
  for (pool, name), want in REFERENCE.items():
    found = [
      metrics[f'{pool}/best_of_n/prm_{reduction}@32:lowest_index[{name}]']['value']
      for reduction in ('min', 'last', 'mean')
    ]
    assert found == pytest.approx(want, abs=1e-9), (pool, name)
    # Beside them, ties shared equally; and what no score is needed for.
    assert f'{pool}/best_of_n/prm_min@32[{name}]' in metrics
    assert f'{pool}/best_of_n/prm_min-majority@32[{name}]' in metrics
  assert metrics['gsm8k/best_of_n/pass@1']['value'] == pytest.approx(0.871, abs=5e-4)
  assert metrics['gsm8k/best_of_n/shortest@32']['value'] == pytest.approx(0.870)
  named = {path.rsplit('[', 1)[1] for path in metrics if path.endswith(']')}
  assert named == {f'{name}]' for _, name in REFERENCE}
  assert not any('[' in p and 'math500' in p and 'skywork' in p for p in metrics)
  page = (tmp_path / 'report.html').read_text()
  assert 'gsm8k: best of 32, ties lowest_index' in page
  assert 'skywork_prm_1_5b' in page


@pytest.fixture
def toy(tmp_path):
  """Keys of a pool of 3 problems with 4 candidates each, and two scorers of it."""
  problems = [
    {
      'problem_id': f'p{i}', 'question': 'Q?', 'gold_answer': '5',
      'candidates': [
        {
          'response': f'a {5 + k % 3}', 'steps': ['a', str(5 + k % 3)],
          'is_correct_source': k % 3 == 0, 'is_correct_regraded': k % 3 == 0,
        }
        for k in range(4)
      ],
    }
    for i in range(3)
  ]  # fmt: skip
  pool = write_lines(tmp_path / 'toy.jsonl', problems)
  named = []
  for name in ('first', 'second'):
    rows = [
      {'problem_id': f'p{i}', 'candidate_index': k, 'step_scores': [0.5, k / 4]}
      for i in range(3)
      for k in range(4)
    ]
    named.append(f'toy:{name}={write_lines(tmp_path / f"{name}.jsonl", rows)}')
  return {
    'data__pools': f'toy={pool}:bon_pools', 'score_files': ','.join(named),
    'evaluate__resamples': 10, 'evaluate__subsets': 2,
  }  # fmt: skip


def pools_argv(work, toy, **more):
  return arguments(work, str(CONFIG), {}, **{**toy, **more})


def test_every_scorer_has_a_line(toy, tmp_path, capsys):
  assert run(pools_argv(tmp_path / 'min', toy)) == 0
  said = capsys.readouterr().err
  for name in ('first', 'second'):
    assert f'prm_jax: toy/best_of_n/prm_min-majority@4[{name}]: ' in said
  page = (tmp_path / 'min' / 'report.html').read_text()
  assert 'On toy, a majority solves' in page
  assert run(pools_argv(tmp_path / 'last', toy, evaluate__reduction='last')) == 0
  said = capsys.readouterr().err
  assert 'toy/best_of_n/prm_last-majority@4[first]: ' in said
  assert 'prm_min-majority' not in said


def test_the_line_takes_the_scorer_s_own_reduction(tmp_path, capsys):
  keys = {'objective__name': 'td', 'data__pools': 'pool=world:heldout'}
  assert run(arguments(tmp_path / 'work', **keys, report=False)) == 0
  said = capsys.readouterr().err
  assert 'pool/best_of_n/prm_last-majority@4: ' in said
  assert 'prm_min-majority' not in said


@pytest.mark.parametrize('limit', [4, 6])
def test_a_limit_leaves_scores_of_others_alone(limit, toy, tmp_path, capsys):
  keys = {'data__limit': limit, 'report': False}
  assert run(pools_argv(tmp_path / 'work', toy, **keys)) == 0
  counters = results(tmp_path / 'work')['counters']
  assert counters['toy/best_of_n/candidates'] == limit
  # Without one, pool and scores must be of the same rows.
  line = (tmp_path / 'toy.jsonl').read_text().splitlines()[0]
  one = write_lines(tmp_path / 'one.jsonl', [line])
  fewer = {**toy, 'data__pools': f'toy={one}:bon_pools'}
  said = refusal(pools_argv(tmp_path / 'other', fewer), capsys)
  assert "'p1', candidate 0 is not in the pool" in said
