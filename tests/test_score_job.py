"""The score job and the Python API with public PRMs."""

import json

import numpy as np
import pytest
from test_implicit import folder_of
from test_public_prms import make
from test_public_prms import pytestmark as pytestmark
from tiny_runs import contents, record, refusal, run, tool, write_lines

import prm_jax
from prm_jax import records
from prm_jax.inference.scorer import Scorer
from prm_jax.interop import public


@pytest.fixture(scope='module')
def trl(tmp_path_factory):
  return make(tmp_path_factory.mktemp('trl'), 'qwen2_token_cls')


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  path = tmp_path_factory.mktemp('rows') / 'rows.jsonl.gz'
  return write_lines(path, [record(i) for i in range(7)])


def told(output):
  stem = output.name.removesuffix('.gz').removesuffix('.jsonl')
  return json.loads((output.parent / f'{stem}.results.json').read_text())


def test_a_public_prm_scores_a_file_in_chunks(trl, rows, tmp_path):
  out = tmp_path / 'scored.jsonl.gz'
  keys = {'scorer': trl, 'input': rows, 'output': out, 'chunk__size': 3}
  assert run(tool('score', **keys)) == 0
  held = list(records.read(str(out)))
  assert [t.id for t in held] == [t.id for t in records.read(str(rows))]
  results = told(out)
  scorer = results['scorer']
  assert (scorer['adapter'], scorer['name']) == ('trl', 'prm')
  assert scorer['reference'] == 'fixture, golden' and scorer['prefix_stable']
  assert scorer['digest'] == results['provenance']['model_hash']
  assert results['counters'] == {'rows': 7, 'scored': 7, 'steps': 28}
  # Python gives the same.
  found = prm_jax.score(
    str(trl), [t.question for t in held], [t.steps for t in held], adapter='trl'
  )
  for t, values in zip(held, found, strict=True):
    assert t.scores['prm'].kind == 'probability'
    np.testing.assert_allclose(t.scores['prm'].values, values, atol=1e-5)


def test_what_cannot_be_scored_is_counted(trl, tmp_path, capsys):
  blank = record(1, steps=['a', '', 'b', 'c'])
  source = write_lines(tmp_path / 'in.jsonl', [record(0), blank])
  out = tmp_path / 'out.jsonl'
  assert run(tool('score', scorer=trl, input=source, output=out)) == 0
  counters = told(out)['counters']
  assert counters['not_scored/empty_step'] == 1 and counters['scored'] == 1
  files = contents(tmp_path)
  assert run(tool('score', scorer=trl, input=source, output=out)) == 0
  assert f'{out}: is complete' in capsys.readouterr().err
  for more in ({'scorer_name': 'two'}, {'data__limit': 1}):
    keys = {'scorer': trl, 'input': source, 'output': out, **more}
    said = refusal(tool('score', **keys), capsys)
    assert 'is there already' in said and '--config.output' in said
  assert contents(tmp_path) == files
  other = write_lines(tmp_path / 'other.jsonl', [blank])
  said = refusal(tool('score', scorer='nowhere', input=source, output=other), capsys)
  assert f'{other}: is there already' in said
  empty = write_lines(tmp_path / 'empty.jsonl', [blank])
  none = tmp_path / 'none.jsonl'
  said = refusal(tool('score', scorer=trl, input=empty, output=none), capsys)
  assert 'no row could be scored (1 empty_step)' in said and not none.exists()


def test_refusals(trl, rows, tmp_path, capsys):
  def said(**keys):
    keys = {'scorer': trl, 'input': rows, 'output': tmp_path / 'x.jsonl', **keys}
    return refusal(tool('score', **keys), capsys)

  assert "scorer_adapter='qwen'" in said(scorer_adapter='qwen')
  assert 'needs no reference' in said(scorer_reference=trl)
  assert 'neither a scorer of ours' in said(scorer=tmp_path)
  assert "scorer_dtype='int8'" in said(scorer_dtype='int8')
  lm = folder_of(tmp_path, 'qwen2_untied')
  assert 'scorer_reference=DIR' in said(scorer=lm, scorer_adapter='eurus')


def test_workdirs_without_a_scorer(rows, tmp_path, capsys):
  def said(job):
    keys = {'scorer': tmp_path, 'input': rows, 'output': tmp_path / 'x.jsonl'}
    (tmp_path / 'config.json').write_text(json.dumps({'job': job}))
    return refusal(tool('score', **keys), capsys)

  end = 'a train run that has not finished; run its command again.'
  assert said('train').endswith(f'{tmp_path}: {end}')
  assert f"{tmp_path}: the workdir of the job 'search'" in said('search')
  (tmp_path / 'policy').mkdir()
  assert f'{tmp_path}: holds a policy, not a scorer' in said('train')


def test_an_implicit_prm_keeps_the_references_numbers(tmp_path, rows):
  policy = folder_of(tmp_path, 'qwen2_untied')
  reference = folder_of(tmp_path, 'qwen2_tied')
  keys = {
    'scorer': policy,
    'scorer_adapter': 'eurus',
    'scorer_reference': reference,
    'input': rows,
    'data__limit': 2,
  }
  first, second = tmp_path / 'first.jsonl', tmp_path / 'second.jsonl'
  assert run(tool('score', output=first, **keys)) == 0
  kept = list((tmp_path / 'cache').rglob('*.safetensors'))
  assert len(kept) == 1
  scorer = told(first)['scorer']
  assert scorer['kind'] == 'log_ratio' and scorer['coefficient'] == 0.001
  assert scorer['reference_model']['source'] == str(reference)
  assert not scorer['prefix_stable']
  assert run(tool('score', output=second, **keys)) == 0
  assert list((tmp_path / 'cache').rglob('*.safetensors')) == kept
  assert first.read_bytes() == second.read_bytes()
  for t in records.read(str(first)):
    assert t.scores['prm'].kind == 'log_ratio'


def test_our_own_exports_load_the_same_way(trl, tmp_path):
  from prm_jax.interop import saving

  spec, params, words, _ = public.load_scorer(trl)
  saving.save(tmp_path / 'hf', spec, params, words)
  again, weights, tokenizer, about = public.load_scorer(tmp_path / 'hf')
  assert (about.adapter, about.reference) == ('exported', 'own')
  assert again == spec
  [t] = [records.from_dict(record(0), 'row')]
  options = {'batch_tokens': 64, 'share_questions': False}
  [a] = Scorer(spec, params, words, **options).score([t])
  [b] = Scorer(again, weights, tokenizer, **options).score([t])
  assert a == b
