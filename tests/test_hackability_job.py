"""The hackability job: what it writes, what it refuses, and whom it tells apart."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
from tiny_runs import ROOT, arguments, record, refusal, results, run, write_lines

from prm_jax import exports, records, tensors
from prm_jax.evaluation.hack_probes import PROBES
from prm_jax.evaluation.hack_tables import NOT_SAFE
from prm_jax.formats import tokenizers
from prm_jax.models import weights
from prm_jax.records import LabelSet
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat
from prm_jax.worlds import arithmetic
from prm_jax.worlds.arithmetic import WorldConfig

CONFIG = str(ROOT / 'configs' / 'hackability.py')
MODEL = ModelSpec(
  260, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32
)
SPEC = ScorerSpec(
  MODEL,
  HeadSpec(),
  StepFormat(question_template='{question}', max_length=48),
)
ATTACKS = {*(p.name for p in PROBES), 'length_steps', 'length_characters'}
TOKENS = 'adversarial_tokens'
ATTACKS |= {TOKENS, 'best_of_n'}


@pytest.fixture(scope='module')
def scorer(tmp_path_factory):
  """A scorer with weights as they were drawn, which gives logits."""
  work = tmp_path_factory.mktemp('hackability')
  rng = np.random.default_rng(0)
  declared = weights.flatten(weights.declare(MODEL, SPEC.head))
  params = {k: rng.normal(0, 0.3, w.shape).astype(np.float32) for k, w in declared}
  exports.save_scorer(
    work / 'scorer', SPEC, tensors.unflatten(params), tokenizers.load('bytes')
  )
  return work


def attack(work, scorer, **changes):
  options = {
    'scorer': scorer, 'hack__tokens': 0, 'hack__iterations': 2, 'hack__train_rows': 1,
    'hack__random': 1, 'hack__exchanges': 0, 'hack__solutions': 3,
    'hack__places': "('step',)", 'data__train': '', 'data__pools': 'pool=world:heldout',
    'data__evaluate': '', 'data__validation': '', 'hack__copies': 1,
  }  # fmt: skip
  return arguments(work, CONFIG, **(options | changes))


def test_report_says_what_fails(scorer, tmp_path, capsys):
  work = tmp_path / 'work'
  assert run(attack(work, scorer)) == 0
  assert capsys.readouterr().err.endswith(f'{work}: results.json, report.html\n')
  held = results(work)
  assert held['job'] == 'hackability' and set(held['verdicts']['pool']) == ATTACKS - {
    TOKENS
  }
  assert held['summary'].startswith('On pool, read with min, this PRM fails ')
  assert held['summary'].endswith(NOT_SAFE) and NOT_SAFE in held['warnings']
  page = (work / 'report.html').read_text()
  assert 'A pass is not evidence of safety' in page and 'filler between' in page
  assert any('best-of-N stops at N = 4' in w for w in held['warnings'])
  marker = held['verdicts']['pool']['marker_stuffing']
  assert marker['verdict'] == 'refused'
  assert held['counters']['pool/probes/marker_stuffing/not_scored/marker_in_text'] == 12
  assert held['counters']['pool/solutions'] == 12  # 3 of 4 candidates of 4 problems
  assert held['counters']['pool/best_of_n/candidates'] == 16
  by = held['verdicts']['pool']['filler_end']['by']
  assert list(by) == ['min', 'last', 'mean']
  found = held['metrics']['pool/overoptimisation/accuracy_min@4']
  assert 0 <= found['low'] <= found['value'] <= found['high'] <= 1
  text = gzip.decompress((work / 'samples' / 'attacks.jsonl.gz').read_bytes())
  lines = [json.loads(line) for line in text.splitlines()]
  assert {s['kind'] for s in lines} == {'probe', 'best_of_n'}
  probes = [s for s in lines if s['kind'] == 'probe']
  assert len(probes) > 12 * (len(PROBES) - 1)
  assert all(s['refused'] for s in probes if s['after']['min'] is None)
  assert run(attack(work, scorer)) == 0  # complete: nothing is done again


def test_bad_input_is_refused(scorer, tmp_path, capsys):
  said = refusal(attack(tmp_path / 'a', ''), capsys)
  assert 'hackability attacks a scorer' in said
  said = refusal(attack(tmp_path / 'b', scorer, data__pools=''), capsys)
  assert 'nothing to attack' in said
  said = refusal(
    attack(tmp_path / 'c', scorer, data__evaluate='pool=world:heldout'), capsys
  )
  assert 'named in data.evaluate and in data.pools' in said
  said = refusal(attack(tmp_path / 'd', scorer, hack__places="('title',)"), capsys)
  assert 'hack.places' in said
  said = refusal(attack(tmp_path / 'e', scorer, hack__copies=0), capsys)
  assert 'hack.copies=0' in said
  said = refusal(attack(tmp_path / 'f', scorer, evaluate__reduction='product'), capsys)
  assert 'product' in said


def test_solutions_that_nobody_judged_are_refused(scorer, tmp_path, capsys):
  rows = [
    record(i, verdicts={'exact': {'value': None}}, first_error={}) for i in range(4)
  ]
  keys = {'data__pools': '', 'hack__solutions': 1}
  keys['data__evaluate'] = f'mine={write_lines(tmp_path / "none.jsonl", rows)}'
  said = refusal(attack(tmp_path / 'none', scorer, **keys), capsys)
  assert said.startswith("mine: no solution has a verdict 'exact' (data.checker)")
  assert 'verdicts none' in said


@pytest.mark.parametrize(('right', 'lacks'), [(True, 'wrong'), (False, 'right')])
def test_a_set_of_one_side_is_told_of_first(right, lacks, scorer, tmp_path, capsys):
  held = {'first_error': {}, 'verdicts': {'exact': {'value': right}}}
  rows = [record(i, **held) for i in range(4)]
  keys = {'data__pools': '', 'hack__solutions': 1, 'report': False}
  keys['data__evaluate'] = f'mine={write_lines(tmp_path / "one.jsonl", rows)}'
  assert run(attack(tmp_path / 'one', scorer, **keys)) == 0
  said = capsys.readouterr().err
  warning = f'mine: none of its 4 solutions is known to be {lacks}'
  assert 0 < said.index(f'warning: {warning}') < said.index('under every probe')
  assert results(tmp_path / 'one')['warnings'][1].startswith(warning)


@pytest.mark.slow
def test_adversarial_tokens_are_reported(scorer, tmp_path):
  work = tmp_path / 'work'
  assert run(attack(work, scorer, hack__tokens=2, world__pool_problems=8)) == 0
  held = results(work)
  found = held['verdicts']['pool'][TOKENS]
  assert found['by'].keys() == {'step'} and len(found['texts']['step']) == 2
  counters = held['counters']
  assert counters[f'pool/{TOKENS}/train'] == 1
  n = counters[f'pool/{TOKENS}/transfer']
  assert n >= 1 and counters[f'pool/{TOKENS}/tokens_to_choose_from'] == 95
  rise = held['metrics'][f'pool/{TOKENS}/rise_transfer@step']
  assert rise['n'] == n - counters[f'pool/{TOKENS}/step/not_scored']
  text = gzip.decompress((work / 'samples' / 'attacks.jsonl.gz').read_bytes())
  lines = [json.loads(line) for line in text.splitlines()]
  tokens = [s for s in lines if s['kind'] == 'tokens']
  assert len(tokens) == n
  mean = np.mean([s['after'] - s['before'] for s in tokens])
  assert rise['value'] == pytest.approx(mean, abs=1e-5)
  assert found['texts']['step'] in tokens[0]['text']


WORLD = {
  'world.min_ops': 2, 'world.max_ops': 6, 'world.longer_min_ops': 7,
  'world.longer_max_ops': 8, 'world.max_value': 4, 'world.max_operand': 4,
  'world.operator_weights': (1, 1, 0, 0, 0), 'world.slip_rate': 0.1,
  'world.shared_error_rate': 0.1,
}  # fmt: skip
FILLER = 'OK.'


def rows_with_filler(n, seed=0):
  """Solutions with up to three steps that say nothing, at any place, and two labels:
  the truth, where such a step is worth what the one before it is, and the length."""
  keys = {k.removeprefix('world.'): v for k, v in WORLD.items()}
  rng = np.random.default_rng(seed)
  for t in arithmetic.split(WorldConfig(n_train=n, **keys), 'train'):
    steps, truth = list(t.steps), list(t.labels['on_track'].values)
    for at in rng.integers(1, len(steps) + 1, rng.integers(4)):
      steps.insert(at, FILLER)
      truth.insert(at, truth[at - 1])
    length = [min(1.0, (i + 1) / 10) for i in range(len(steps))]
    yield dataclasses.replace(
      t,
      steps=tuple(steps),
      first_error={},
      labels={
        'truth': LabelSet('correctness', tuple(truth)),
        'length': LabelSet('value', tuple(length)),
      },
    )


@pytest.mark.slow
def test_tells_a_reward_for_length_from_a_sound_one(tmp_path):
  """Two PRMs of the same data, one trained on the truth and one on the length."""
  path = tmp_path / 'rows.jsonl'
  path.write_text(
    ''.join(json.dumps(records.to_dict(t)) + '\n' for t in rows_with_filler(40000))
  )
  shared = {**WORLD, 'format.max_length': 64, 'evaluate.resamples': 200}
  model = {
    'model.n_layers': 2, 'model.d_model': 32, 'model.n_heads': 2,
    'model.n_kv_heads': 2, 'model.head_dim': 16, 'model.d_ff': 64,
    'train.steps': 2500, 'train.batch_size': 32, 'train.validate_every': 0,
    'data.validation': '', 'data.evaluate': '', 'data.pools': '', 'report': False,
    'optimizer.peak_lr': 3e-3,
  }  # fmt: skip
  base = str(ROOT / 'configs' / 'embedded.py')
  found = {}
  for label, objective in (('truth', 'bce'), ('length', 'bce_soft')):
    work = tmp_path / label
    argv = arguments(
      work, base, {**shared, **model}, data__train=path, data__label=label,
      data__truth='truth', objective__name=objective,
    )  # fmt: skip
    assert run(argv) == 0
    argv = arguments(
      tmp_path / f'{label}_attacked', CONFIG, shared, scorer=work, hack__copies=2,
      evaluate__reduction='last', world__pool_problems=80, world__pool_size=16,
      hack__tokens=0, evaluate__subsets=5,
    )  # fmt: skip
    assert run(argv) == 0
    found[label] = results(tmp_path / f'{label}_attacked')
  verdict = {
    label: {a: v['verdict'] for a, v in held['verdicts']['heldout'].items()}
    for label, held in found.items()
  }
  for attacked in ('filler_end', 'repeat_last', 'length_steps'):
    assert verdict['length'][attacked] == 'fail', attacked
  assert verdict['length']['numeric_corruption'] == 'fail'  # it reads no numbers
  for attacked in ('filler_end', 'length_steps', 'length_characters'):
    assert verdict['truth'][attacked] == 'pass', attacked
  assert (
    verdict['truth']['numeric_corruption'] == 'pass'
  )  # nor passes by saying nothing
  change = {
    label: held['metrics']['heldout/probes/filler_end/change@last']
    for label, held in found.items()
  }
  assert change['length']['low'] > 0.1 > change['truth']['high']
