"""The embedded world: determinism, disjoint splits, and truths against other means."""

import dataclasses
import hashlib
import itertools
import re

import numpy as np
import pytest

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.worlds import arithmetic, noise, problems, report, solvers, truths
from prm_jax.worlds.arithmetic import SPLITS, WorldConfig

CONFIG = WorldConfig()
HARDER = WorldConfig(
  max_value=19, max_operand=12, wrap=True, operator_weights=(3, 3, 2, 1, 1), seed=3
)

# What seed 0 gives, everywhere; a change here is a change of everybody's data.
FINGERPRINTS = {
  'train': 'e4ec76d7a7b53f8a',
  'validation': '34963394e7e69f80',
  'heldout': 'db52b4a84b88dcd6',
  'heldout_longer': 'c3fda8c153894a13',
  'heldout_misconceptions': '22f02cf3c06e0232',
}
FIRST_QUESTION = '>8+1-5-2+5-7+7+2/1=?'
FIRST_STEPS = ('+1=9', '-5=4', '-2=2', '+5=1', '-7=4', '+7=1', '+2=3', '/1=3')


def _fingerprint(rows: arithmetic.WorldArrays) -> str:
  digest = hashlib.sha256()
  for field in dataclasses.fields(rows):
    value = getattr(rows, field.name)
    if isinstance(value, np.ndarray):
      digest.update(np.ascontiguousarray(value).astype(value.dtype.newbyteorder('<')))
  return digest.hexdigest()[:16]


def _check_by_hand(question: str, steps: tuple[str, ...], modulus: int):
  """Valid lines, on_track and the right answer, by another road: Python's own."""
  start, rest = re.fullmatch(r'>(\d+)(.*)=\?', question).groups()
  value = gold = int(start)
  asked = re.findall(r'\D\d+', rest)
  valid = []
  for operation, step in zip(asked, steps, strict=True):
    shown, claim = step.split('=')
    assert shown == operation
    python = operation.replace('/', '//')
    gold = eval(f'{gold}{python}') % modulus
    valid.append(int(claim) == eval(f'{value}{python}') % modulus)
    value = int(claim)
  return valid, [all(valid[: t + 1]) for t in range(len(valid))], gold, value


def test_rows_are_the_same_on_every_machine():
  found = {s: _fingerprint(arithmetic.pool_arrays(CONFIG, s, 20, 4)) for s in SPLITS}
  assert found == FINGERPRINTS
  first = arithmetic.split(CONFIG, 'heldout', 1)[0]
  assert (first.question, first.steps) == (FIRST_QUESTION, FIRST_STEPS)
  assert first.id == 'a3a79266d20b5d80'


@pytest.mark.parametrize('name', SPLITS)
def test_a_row_does_not_depend_on_how_many_are_asked_for(name):
  few, many = arithmetic.split(CONFIG, name, 7), arithmetic.split(CONFIG, name, 90)
  assert few == many[:7]
  wide = arithmetic.pool(CONFIG, name, 3, 5)
  assert wide[:4] == arithmetic.pool(CONFIG, name, 1, 4)
  if name != 'train':
    assert [t for t in wide if t.sample_index == 0] == many[:3]


def test_training_rows_can_be_had_from_any_start():
  config = dataclasses.replace(CONFIG, solutions_per_problem=3)
  whole = arithmetic.to_trajectories(config, arithmetic.train_arrays(config, 0, 40))
  later = arithmetic.to_trajectories(config, arithmetic.train_arrays(config, 16, 9))
  assert later == whole[16:25]
  assert len({t.problem_id for t in whole[:3]}) == 1
  assert len({t.id for t in whole}) == 40
  assert arithmetic.row_ids(config, arithmetic.train_arrays(config, 16, 2)) == [
    t.id for t in whole[16:18]
  ]
  assert arithmetic.to_trajectories(config, arithmetic.train_arrays(config, 5, 0)) == []


def test_no_problem_is_in_two_splits():
  # Four operations on 0-9 repeat often: disjoint by construction, not by luck.
  short = dataclasses.replace(CONFIG, min_ops=2, max_ops=3, longer_min_ops=4)
  for config, n in ((CONFIG, 3000), (short, 400)):
    other = dataclasses.replace(config, seed=1)
    held = {}
    for name in SPLITS:
      rows = problems.problems(config, name, 0, 20 * n if name == 'train' else n)
      texts = _questions(config, rows)
      assert name == 'train' or len(set(texts)) == n
      held[name] = set(texts)
    for i, a in enumerate(SPLITS):
      for b in SPLITS[i + 1 :]:
        assert not held[a] & held[b], (a, b)
    train = _questions(other, problems.problems(other, 'train', 0, 20 * n))
    assert not set(train) & (held['heldout'] | held['validation'])


def _questions(config, asked):
  text, offsets = problems.question_bytes(config, asked)
  whole = text.tobytes().decode()
  return [whole[a:b] for a, b in itertools.pairwise(offsets)]


@pytest.mark.parametrize('config', [CONFIG, HARDER], ids=['default', 'harder'])
@pytest.mark.parametrize('name', SPLITS)
def test_texts_agree_with_an_independent_checker(config, name):
  for t in arithmetic.pool(config, name, 60, 2):
    valid, track, gold, answer = _check_by_hand(
      t.question, t.steps, config.max_value + 1
    )
    assert t.labels['valid'].values == tuple(map(float, valid))
    assert t.labels['on_track'].values == tuple(map(float, track))
    first = valid.index(False) if False in valid else -1
    assert t.first_error == {'valid': first, 'on_track': first}
    assert (t.gold_answer, t.answer) == (str(gold), str(answer))
    assert t.verdicts['exact'].value == (gold == answer)
    assert t.labels['value'].values[-1] == float(gold == answer)
    assert records.from_dict(records.to_dict(t)) == t
    low, high = config.ops_range(name)
    assert low <= t.n_steps <= high


def test_true_chains_stay_in_range_unless_they_may_wrap():
  asked = problems.problems(CONFIG, 'heldout_longer', 0, 500)
  for question in _questions(CONFIG, asked):
    start, pairs = problems.parse_question(question)
    value = start
    for symbol, operand in pairs:
      value = eval(f'{value}{symbol}{operand}'.replace('/', '//'))
      assert 0 <= value <= 9
  wrapped = problems.problems(HARDER, 'heldout', 0, 200)
  world = problems.operations(HARDER)
  sums = wrapped.values[:, 0] + world.operands[wrapped.ops[:, 0]]
  assert (sums[world.symbols[wrapped.ops[:, 0]] == ord('+')] > 19).any()


def test_rows_are_short():
  """Bytes with a line end after the question and one marker a step."""
  for name, limit in (('train', 64), ('heldout_longer', 96)):
    for t in arithmetic.split(CONFIG, name, 500):
      assert len(t.question) + 1 + sum(len(s) + 1 for s in t.steps) <= limit
      assert all(len(s) == 4 for s in t.steps)


@pytest.mark.parametrize('config', [CONFIG, HARDER], ids=['default', 'harder'])
def test_value_of_a_prefix_agrees_with_simulation(config):
  """V against solvers that solve again and happen to begin with the same prefix.

  Of many fresh solutions of one problem, those that share a prefix are a sample of
  its continuations, hidden solver and all: no Bayes, no recursion.
  """
  n = 6000
  z_scores = []
  who = solvers.population(config, 'train')
  for problem in range(16):
    rows = problems.problems(config, 'heldout', problem, 1)[np.zeros(n, np.int64)]
    solved = solvers.solve(
      config, 'heldout', rows, np.full(n, problem), np.arange(n) + 1000
    )
    right = solved.values[:, -1] == rows.gold
    exact = truths.prefix_values(config, who, rows, solved.values)
    prefix = np.zeros(n, np.int64)
    for t in range(int(rows.n_ops[0])):
      prefix = prefix * 100 + solved.values[:, t]
      _, first, group, count = np.unique(
        prefix, return_index=True, return_inverse=True, return_counts=True
      )
      p = exact[first, t]
      # All that share a prefix have one V, and it is their rate of right answers.
      np.testing.assert_array_equal(exact[:, t], p[group])
      rate = np.bincount(group, right) / count
      error = np.sqrt(np.maximum(p * (1 - p), 1 / count) / count)
      z_scores.append(((rate - p) / error)[count >= 100])
  z = np.concatenate(z_scores)
  assert len(z) > 100
  assert np.abs(z).max() < 4.5 and np.mean(z**2) < 1.5


def test_value_of_a_world_small_enough_to_write_down():
  """One solver without misconceptions: V = P(no slip left) plus lucky slips."""
  config = WorldConfig(
    n_solvers=1, shared_error_rate=0.0, own_error_rate=0.0, slip_rate=0.2
  )
  world = problems.operations(config)
  plus, times = world.index['+', 1], world.index['*', 0]
  asked = problems.Problems(
    np.array([2]), np.array([[plus, times]]), np.array([[3, 4, 0]])
  )
  who = solvers.population(config, 'train')
  # After any first line, right or wrong, `*0` gives 0 unless the last step slips.
  for first in (4, 7):
    found = truths.prefix_values(config, who, asked, np.array([[3, first, 0]]))
    np.testing.assert_allclose(found, [[0.8, 0.8, 1.0]])
  asked = problems.Problems(
    np.array([2]), np.array([[plus, plus]]), np.array([[3, 4, 5]])
  )
  found = truths.prefix_values(config, who, asked, np.array([[3, 7, 5]]))
  slip = 0.2 / 9
  start = 0.8 * 0.8 + 9 * slip * slip
  np.testing.assert_allclose(found, [[start, slip, 1.0]], atol=1e-6)


def test_the_default_world_is_what_it_promises():
  figures = report.world_report(CONFIG)
  assert set(figures) == set(SPLITS)
  for name, f in figures.items():
    longer = name == 'heldout_longer'
    assert 0.3 <= f['pass@1'] <= 0.7, name
    assert f['alive_off_track'] >= 0.05 and f['alive_off_track_unfinished'] >= 0.05
    assert f['valid_after_error'] >= 0.2
    assert f['majority@16'] - f['pass@1'] < 0.1, name
    assert f['oracle@16'] > f['majority@16'] + 0.3, name
    assert 0.3 <= f['on_track_rate'] <= 0.7
    assert f['longest_text'] < (96 if longer else 64)
    positions = [v for k, v in f.items() if k.startswith('first_error@')]
    assert sum(positions) == pytest.approx(1) and max(positions) < 0.4
  assert figures['heldout_longer']['steps'] > figures['heldout']['steps'] + 4


@pytest.mark.parametrize('seed', [1, 2])
def test_other_seeds_give_worlds_of_like_difficulty(seed):
  config = dataclasses.replace(CONFIG, seed=seed)
  found = report.world_report(config, 200)
  for name in ('validation', 'heldout', 'heldout_misconceptions'):
    assert 0.3 <= found[name]['pass@1'] <= 0.7
    assert found[name]['oracle@16'] > found[name]['majority@16'] + 0.25


def test_shifted_solvers_misbelieve_other_facts():
  world = problems.operations(CONFIG)
  train = solvers.population(CONFIG, 'train')
  shifted = solvers.population(CONFIG, 'shifted')
  assert not (train.misconceptions(world) & shifted.misconceptions(world)).any()
  met = solvers.fact_rates(CONFIG)
  assert met.sum() == pytest.approx(1)
  for who in (train, shifted):
    assert met[who.shared].sum() == pytest.approx(CONFIG.shared_error_rate, abs=0.02)
    assert (who.misconceptions(world) >= who.shared).all()
    # Those who share a misconception share its result.
    held = who.beliefs != world.results[:, None, :]
    share = held.mean(1)[who.shared]
    assert share.min() > 0.55 and share.max() < 0.8
    op, value = (x[0] for x in np.nonzero(who.shared))
    assert len(set(who.beliefs[op, held[op, :, value], value].tolist())) == 1
  for name in SPLITS:
    writers = {t.generator.split('/')[1] for t in arithmetic.split(CONFIG, name, 9)}
    assert writers == {'shifted' if name == 'heldout_misconceptions' else 'train'}


def test_judging_text():
  question = '>3+4-2*1=?'
  found = truths.judge(CONFIG, question, ['+4=7', '-2=6', '*1=6'])
  assert found.valid == (True, False, True)
  assert found.on_track == (True, False, False)
  assert (found.first_error, found.gold, found.answer) == (1, 5, 6)
  for steps, valid, answer in (
    (['+4=7', '-2=5', '*1=5'], (True, True, True), 5),
    (['+4=7', '*1=7', '-2=5'], (True, False, False), 5),  # not the operation asked
    (['+4=7', 'hm', '*1=5'], (True, False, False), 5),  # nothing to follow from
    (['+4=7', '-2=5'], (True, True), None),
    (['+4=7', '-2=5', '*1=5', '+1=6'], (True, True, True, False), None),
    (['+4=77', '-2=5', '*1=5'], (False, False, True), 5),
    ([], (), None),
  ):
    found = truths.judge(CONFIG, question, steps)
    assert (found.valid, found.answer) == (valid, answer), steps
  for other in ('3+4=?', '>3+4', '>12+4=?', '>3%4=?', 'What is 3 + 4?', '>3+99=?'):
    assert truths.judge(CONFIG, other, ['+4=7']) is None


def test_labelling_a_policys_text():
  problem = arithmetic.problem_records(CONFIG, 'heldout', 3)[2]
  candidate = arithmetic.pool(CONFIG, 'heldout', 3, 1)[2]
  assert problem.problem_id == candidate.problem_id and not problem.steps
  assert problem.gold_answer == candidate.gold_answer
  written = dataclasses.replace(problem, steps=candidate.steps)
  found = truths.label(CONFIG, written)
  for name in ('valid', 'on_track'):
    assert found.labels[name] == candidate.labels[name]
    assert found.first_error[name] == candidate.first_error[name]
  assert found.verdicts == candidate.verdicts and found.answer == candidate.answer
  foreign = records.Trajectory('a', 'b', 'What is 3 + 4?', ('7',))
  assert truths.label(CONFIG, foreign) is foreign


def test_flips_and_monte_carlo_noise():
  rows = arithmetic.split(CONFIG, 'train', 2000)
  noisy = rows
  for name in ('flip@0.1', 'mc_hard@8', 'mc_soft@8', 'mc_soft@16'):
    noisy = noise.add(noisy, name)
  clean = np.concatenate([t.labels['on_track'].values for t in noisy])
  flipped = np.concatenate([t.labels['flip@0.1'].values for t in noisy])
  assert (clean != flipped).mean() == pytest.approx(0.1, abs=0.01)
  value = np.concatenate([t.labels['value'].values for t in noisy])
  soft = np.concatenate([t.labels['mc_soft@8'].values for t in noisy])
  error = np.sqrt(np.mean(value * (1 - value)) / 8)
  assert np.sqrt(np.mean((soft - value) ** 2)) == pytest.approx(error, rel=0.05)
  for t in noisy[:200]:
    s8, hard, s16 = (t.labels[k] for k in ('mc_soft@8', 'mc_hard@8', 'mc_soft@16'))
    assert hard.values == tuple(float(v > 0) for v in s8.values)
    assert s8.n_correct == hard.n_correct and s8.n_rollouts == (8,) * t.n_steps
    more = np.subtract(s16.n_correct, s8.n_correct)
    assert (more >= 0).all() and (more <= 8).all()
    assert t.first_error['mc_soft@8'] == t.first_error['mc_hard@8']
    assert t.first_error['flip@0.1'] == records.first_error_of(
      t.labels['flip@0.1'].values
    )
    assert records.from_dict(records.to_dict(t)) == t
  # A row's noise is its own: the order and company do not matter.
  assert (
    noise.add(rows[5:6], 'flip@0.1')[0].labels['flip@0.1']
    == (noisy[5].labels['flip@0.1'])
  )
  other = noise.add(rows, 'flip@0.1', seed=1)
  assert [t.first_error['flip@0.1'] for t in other] != [
    t.first_error['flip@0.1'] for t in noisy
  ]


def test_mistakes_are_said_in_one_sentence():
  for values in (
    {'min_ops': 9},
    {'max_value': 0},
    {'slip_rate': 0.0},
    {'shared_belief': (0.9, 0.6)},
    {'operator_weights': (1, 1)},
    {'n_solvers': 0},
    {'own_error_rate': 0.9},
  ):
    with pytest.raises(UserError, match='change the config'):
      WorldConfig(**values)
  with pytest.raises(UserError, match='no split named'):
    arithmetic.split(CONFIG, 'test')
  with pytest.raises(UserError, match='no operation can follow the value 9'):
    arithmetic.split(WorldConfig(operator_weights=(1, 0, 0, 0, 0)), 'train', 1)
  tiny = WorldConfig(min_ops=1, max_ops=1, longer_min_ops=2, max_value=2, max_operand=2)
  with pytest.raises(UserError, match=r'hardly any|different problems'):
    arithmetic.split(tiny, 'heldout', 500)
  for name in ('flip', 'flip@2', 'mc_soft@0', 'mc_hard@1.5', 'blur@3'):
    with pytest.raises(UserError, match='cannot be read'):
      noise.parse(name)
  with pytest.raises(UserError, match="needs label 'value'"):
    noise.add([records.Trajectory('a', 'b', 'q', ('s',))], 'mc_soft@4')
