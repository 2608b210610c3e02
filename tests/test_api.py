"""Scores from Python, as README shows it; mistakes get one sentence."""

import dataclasses
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import prm_jax
from prm_jax import exports
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.models import scorer as scoring_model
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat

README = Path(__file__).resolve().parent.parent / 'README.md'
MODEL = ModelSpec(
  260, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32
)
SPEC = ScorerSpec(MODEL, HeadSpec(init_scale=0.5), StepFormat(max_length=48))
QUESTION, STEPS = '>3+4-2=?', ['+4=7', '-2=5']


def save(folder, seed=0, spec=SPEC):
  params = scoring_model.init(spec.model, spec.head, jax.random.key(seed))
  exports.save_scorer(folder, spec, params, tokenizers.load('bytes'))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """What a train run leaves, with parameters that were never trained."""
  folder = tmp_path_factory.mktemp('api') / 'runs' / 'pqm'
  save(folder / 'scorer')
  return folder


def readme_example():
  blocks = re.findall(r'```python\n(.*?)```', README.read_text('utf-8'), re.DOTALL)
  return next(block for block in blocks if 'prm_jax.score(' in block)


def test_the_example_of_readme_runs(workdir, monkeypatch, capsys):
  example = readme_example()
  assert len([x for x in example.splitlines() if x.strip()]) <= 5
  monkeypatch.chdir(workdir.parent.parent)
  names = {}
  exec(compile(example, str(README), 'exec'), names)
  shown = capsys.readouterr().out
  assert len(re.findall(r'-?\d+\.\d+', shown)) == sum(map(len, names['steps']))


def test_one_number_a_step_in_the_order_given(workdir):
  questions = [QUESTION, '>1+1=?', QUESTION]
  steps = [STEPS, ['+1=2'], STEPS[:1]]
  found = prm_jax.score(str(workdir), questions, steps)
  assert [len(row) for row in found] == [2, 1, 1]
  assert all(type(v) is float and np.isfinite(v) for row in found for v in row)
  # A step's score reads nothing behind it, and no other solution.
  np.testing.assert_allclose(found[0][:1], found[2], atol=1e-5)
  assert prm_jax.score(workdir, tuple(questions[::-1]), steps[::-1]) == found[::-1]
  assert prm_jax.score(str(workdir / 'scorer'), questions, steps) == found
  assert prm_jax.score(str(workdir), [], []) == []


def test_probabilities_where_the_spec_says_so(tmp_path, workdir):
  spec = dataclasses.replace(SPEC, step_value='sigmoid', kind='probability')
  save(tmp_path, spec=spec)
  logits = np.array(prm_jax.score(str(workdir), [QUESTION], [STEPS]))
  found = np.array(prm_jax.score(str(tmp_path), [QUESTION], [STEPS]))
  np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_a_new_export_is_seen(tmp_path):
  save(tmp_path)
  before = prm_jax.score(str(tmp_path), [QUESTION], [STEPS])
  save(tmp_path, seed=1)
  os.utime(tmp_path / 'spec.json', (1, 1))  # however coarse the clock of the disk
  assert prm_jax.score(str(tmp_path), [QUESTION], [STEPS]) != before


def refusal(*args):
  with pytest.raises(UserError) as caught:
    prm_jax.score(*args)
  message = str(caught.value)
  assert '\n' not in message and len(message) > 20
  return message


@pytest.mark.parametrize(
  ('questions', 'steps', 'said'),
  [
    (QUESTION, [STEPS], 'lists of one length'),
    ([QUESTION], [STEPS, STEPS], 'lists of one length'),
    ([QUESTION], ['+4=7'], "solution 0: field 'steps'.* must be a list"),
    ([QUESTION], [['a', 1]], r"solution 0: field 'steps\[1\]' is 1"),
    ([None], [STEPS], "solution 0: field 'question' is None"),
    ([QUESTION], None, 'lists of one length'),
    ([QUESTION], [['\udc80']], 'surrogate'),
    ([QUESTION, QUESTION], [STEPS, []], 'solution 1 .*no_steps'),
    ([QUESTION], [['+4=7', ' ']], 'solution 0 .*empty_step'),
    ([QUESTION], [['+4=7<prm>']], 'solution 0 .*marker_in_text'),
    ([QUESTION * 9], [STEPS], 'solution 0 .*too_long'),
  ],
)
def test_what_cannot_be_scored_is_named(workdir, questions, steps, said):
  assert re.search(said, refusal(str(workdir), questions, steps))


def test_a_damaged_scorer_is_named(tmp_path):
  assert 'spec.json' in refusal(str(tmp_path / 'none'), [QUESTION], [STEPS])
  save(tmp_path / 'cut')
  weights = tmp_path / 'cut' / 'model.safetensors'
  weights.write_bytes(weights.read_bytes()[:100])
  message = refusal(str(tmp_path / 'cut'), [QUESTION], [STEPS])
  assert str(weights) in message and 'again' in message


def test_other_names_are_refused():
  with pytest.raises(AttributeError, match="has no attribute 'scores'"):
    _ = prm_jax.scores
