"""The train job on a policy: what it leaves, resuming, mappers, bad input."""

import json

import jax
import numpy as np
import pytest
import tiny_runs
from often import often
from tiny_runs import ROOT, refusal, results, run

from prm_jax import exports, tensors
from prm_jax.jobs import train as job

POLICY = str(ROOT / 'configs' / 'policy.py')
TINY = {
  **{k: v for k, v in tiny_runs.TINY.items() if not k.startswith('format.')},
  'text.max_length': 48,
  'data.evaluate': '',
  'world.n_train': 40,
  'optimizer.peak_lr': 1e-2,
  'optimizer.horizon': 30,
  'train.steps': 9,
}


def argv(workdir, **overrides):
  return tiny_runs.arguments(workdir, config=POLICY, tiny=TINY, **overrides)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  work = tmp_path_factory.mktemp('straight') / 'work'
  assert run(argv(work)) == 0
  return work


def promised(work):
  held = results(work)
  lines = (work / 'metrics.jsonl').read_text().splitlines()
  return {
    'parameters': (work / 'policy' / 'model.safetensors').read_bytes(),
    'spec': (work / 'policy' / 'spec.json').read_bytes(),
    'metrics.jsonl': [
      {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
      for line in lines
    ],
    'metrics': held['metrics'],
    'counters': held['counters'],
  }


def test_what_a_run_leaves(straight):
  spec, params, words = exports.load_policy(straight / 'policy')
  assert spec.text_format.max_length == 48 and words.token_id('<eos>') == 258
  held = results(straight)
  assert held['provenance']['model_hash'] == tensors.model_hash(params)
  assert not (straight / 'scorer').exists()
  assert held['counters']['train/rows_used'] == 40
  assert held['counters']['validation/rows_used'] == 24
  loss = held['metrics']['validation/next_token/loss']
  assert loss['low'] < loss['value'] < loss['high'] and loss['value'] < np.log(260)
  hits = held['metrics']['validation/next_token/token_accuracy']
  assert 0 <= hits['value'] <= 1 and hits['n'] == loss['n'] == 24 * 4 * 5


def test_the_report_speaks_of_a_policy(tmp_path):
  assert run(argv(tmp_path, report=True, train__validate_every=3)) == 0
  page = (tmp_path / 'report.html').read_text()
  assert 'A policy was trained' in page and 'Loss on validation' in page
  rows = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [r['step'] for r in rows if 'validation/loss' in r] == [3, 6, 9]


class Killed(BaseException):
  pass


@pytest.mark.parametrize('call', often([2, 6], 6))
def test_a_killed_run_goes_on(call, straight, tmp_path, monkeypatch):
  every = {'checkpoint__every_steps': 2}
  note, calls = job.Run._note, [0]

  def dies(self, waiting, window):
    calls[0] += 1
    if calls[0] == call:
      raise Killed
    note(self, waiting, window)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(job.Run, '_note', dies)
    run(argv(tmp_path, **every))
  assert run(argv(tmp_path, **every)) == 0
  assert promised(tmp_path) == promised(straight)


@pytest.mark.slow
def test_killed_before_results(straight, tmp_path, monkeypatch):
  def dies(*args, **kwargs):
    raise Killed

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(exports, 'save_policy', dies)
    run(argv(tmp_path))
  assert run(argv(tmp_path)) == 0
  assert promised(tmp_path) == promised(straight)


@pytest.mark.skipif(jax.device_count() < 8, reason='needs 8 devices')
@pytest.mark.slow
def test_pmap_and_a_mesh_train_alike(straight, tmp_path):
  pmapped, meshed = tmp_path / 'pmap', tmp_path / 'mesh'
  assert run(argv(pmapped, parallel__mapper='pmap')) == 0
  assert run(argv(meshed, parallel__data=2, parallel__fsdp=2, parallel__tensor=2)) == 0
  want = exports.load_policy(straight / 'policy')[1]
  for work in (pmapped, meshed):
    found = exports.load_policy(work / 'policy')[1]
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_any_file_of_solutions(tmp_path):
  rows = [tiny_runs.record(i) for i in range(20)]  # every other one is wrong
  path = tiny_runs.write_lines(tmp_path / 'rows.jsonl', rows)
  keys = {'data__train': path, 'data__validation': ''}
  assert run(argv(tmp_path / 'right', **keys)) == 0
  held = results(tmp_path / 'right')
  assert held['counters']['train/rows_used'] == 10
  assert held['counters']['train/rows_wrong'] == 10
  assert held['metrics'] == {}
  assert run(argv(tmp_path / 'all', policy__train_on='all', **keys)) == 0
  assert results(tmp_path / 'all')['counters']['train/rows_used'] == 20
  bare = [{k: r[k] for k in ('id', 'problem_id', 'question', 'steps')} for r in rows]
  path = tiny_runs.write_lines(tmp_path / 'bare.jsonl', bare)
  share = {'data__train': path, 'data__validation': '', 'data__validation_share': 0.3}
  assert run(argv(tmp_path / 'bare', train__use='best', **share)) == 0
  held = results(tmp_path / 'bare')
  n = held['counters']['train/rows_used'], held['counters']['validation/rows_used']
  assert sum(n) == 20 and min(n) > 2
  assert held['counters']['train/rows_used_without_verdict'] == n[0]


@pytest.mark.slow
def test_two_sources_and_accumulation(tmp_path):
  rows = [tiny_runs.record(i) for i in range(20)]
  path = tiny_runs.write_lines(tmp_path / 'rows.jsonl', rows)
  both = f'mine={path}@0.5,world_exact:train'
  more = {'data__train': both, 'train__accumulation': 2, 'data__validation': ''}
  more |= {'train__batch_size': 16, 'objective__unit': 'problem'}
  assert run(argv(tmp_path / 'work', **more)) == 0
  lines = (tmp_path / 'work' / 'metrics.jsonl').read_text().splitlines()
  assert {'train/loss[mine]', 'train/loss[world_exact_train]'} <= set(
    json.loads(lines[0])
  )


@pytest.mark.slow
def test_a_trained_tokenizer(tmp_path):
  from prm_jax.formats import tokenizers

  tokenizers.train_bpe(['+3=4 -1=3 >=?'] * 9, 270, tmp_path / 'tokenizer.json')
  more = {'tokenizer': str(tmp_path), 'text__end': '<|done|>'}
  assert run(argv(tmp_path / 'work', **more)) == 0
  spec, _, words = exports.load_policy(tmp_path / 'work' / 'policy')
  assert spec.tokenizer == 'tokenizer.json' and words.token_id('<|done|>') is not None


@pytest.mark.parametrize(
  'keys, message',
  [
    ({'head__kind': 'scalar'}, "set head.kind='lm'"),
    ({'head__dropout': 0.1}, 'without dropout'),
    ({'policy__train_on': 'wrong'}, 'policy.train_on'),
    ({'objective__unit': 'step'}, 'token, trajectory, problem'),
    ({'objective__margin': 2.0}, 'no hyperparameter'),
    ({'objective__name': 'bce'}, 'choose another head'),
    ({'data__pools': 'world:heldout'}, 'does not choose among candidates'),
    ({'data__train': 'world_exact:nowhere'}, 'no split'),
    ({'text__end': '<|im_end|>'}, 'must be exactly one'),
    ({'text__separator': ''}, 'text.separator'),
    ({'text__max_length': 20}, 'raise text.max_length'),
  ],
)
def test_bad_input_is_one_sentence(keys, message, tmp_path, capsys):
  assert message in refusal(argv(tmp_path / 'work', **keys), capsys)


def test_a_workdir_of_the_other_kind(straight, tmp_path, capsys):
  said = refusal(
    tiny_runs.tool(
      'score', input='world:heldout', output=str(tmp_path / 'o.jsonl'),
      scorer=str(straight / 'policy'),
    ),
    capsys,
  )  # fmt: skip
  assert 'holds a policy, where a scorer is needed' in said
