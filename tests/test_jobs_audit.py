"""The audit job on tiny files: names, results, report, truth of the embedded world."""

import json

import numpy as np
import pytest

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.evaluation.report import scales
from prm_jax.jobs import audit, configuration, stopping
from prm_jax.labeling import adaptive, registry
from prm_jax.labeling.protocol import Continuation
from prm_jax.records import LabelSet, add
from prm_jax.worlds import arithmetic
from prm_jax.worlds.arithmetic import WorldConfig

TRUTHS = ('on_track', 'valid')


def solutions(n=40):
  """Solutions of the embedded world, without what it says of their steps."""
  rows = arithmetic.split(WorldConfig(n_heldout=n), 'heldout')[:n]
  return rows


def bare(t):
  labels = {k: v for k, v in t.labels.items() if k not in (*TRUTHS, 'value')}
  first = {k: v for k, v in t.first_error.items() if k not in (*TRUTHS, 'value')}
  return records.dataclasses.replace(t, labels=labels, first_error=first)


def labelled(t, name, k, seed, cost=True):
  """k simulated rollouts of each unfinished prefix at its exact V."""
  v = np.array(t.labels['value'].values)
  rng = np.random.default_rng([seed, int(t.id[:8], 16)])
  hits = rng.binomial(k, v[:-1]).tolist()
  held = LabelSet(
    'value',
    (*(h / k for h in hits), v[-1].item()),
    {'completer': 'solver', 'sampling': {'seed': seed}},
    n_correct=(*hits, None),
    n_rollouts=(*(k for _ in hits), None),
  )
  t = add(bare(t), 'labels', name, held)
  if cost:
    spent = {'tokens': 6 * k * len(hits), 'rollouts': k * len(hits)}
    t = add(t, 'meta', 'label_cost', {name: spent})
  return t


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('audit')
  rows = solutions()
  records.write(
    folder / 'reference.jsonl', (labelled(t, 'reference', 256, 1) for t in rows)
  )
  for k in (2, 8):
    work = folder / f'run_{k}' / 'labelled'
    work.mkdir(parents=True)
    held = [labelled(t, 'mc', k, 2) for t in rows]
    records.write(work / '00000.jsonl.gz', held[:25])
    records.write(work / '00001.jsonl.gz', held[25:])
  records.write(
    folder / 'free.jsonl', (labelled(t, 'x', 4, 1, cost=False) for t in rows)
  )
  return folder


def run(folder, workdir, **keys):
  words = [f'--config.{k.replace("__", ".")}={v}' for k, v in keys.items()]
  command = configuration.parse(
    ['x', '--config=configs/audit.py', f'--workdir={workdir}',
     '--config.evaluate.resamples=50', '--config.audit.streams=50', *words]
  )  # fmt: skip
  audit.run(command)
  return json.loads((workdir / 'results.json').read_text())


def test_audit_of_tiny_files(files, tmp_path):
  named = f'mc.2={files}/run_2,mc.8={files}/run_8,free={files}/free.jsonl@x'
  found = run(
    files, tmp_path, audit__reference=f'{files}/reference.jsonl', audit__labelled=named
  )
  metrics = found['metrics']
  for name in ('mc.2', 'mc.8', 'free'):
    assert 0 < metrics[f'audit/{name}/first_error_accuracy[on_track]']['value'] <= 1
    assert 0 < metrics[f'audit/{name}/first_error_accuracy[reference]']['value'] <= 1
  net = [
    metrics[f'audit/mc.{k}/mean_squared_error_net[reference]']['value'] for k in (2, 8)
  ]
  assert net[0] > net[1] > 0
  assert metrics['audit/mc.2/tokens']['value'] < metrics['audit/mc.8/tokens']['value']
  assert metrics['audit/free/tokens']['value'] is None
  assert found['counters']['audit/free/solutions_without_cost'] == 40
  assert metrics['audit/reference/off_track_alive[on_track]']['n'] > 0
  # Only `free` was sampled with the seed of the reference.
  shared = [w for w in found['warnings'] if 'same completer and seed' in w]
  assert len(shared) == 1 and shared[0].startswith('free: ')
  assert set(found['provenance']['data']) == {
    f'{files}/reference.jsonl',
    *(f'{files}/{p}' for p in ('run_2', 'run_8', 'free.jsonl')),
  }
  page = (tmp_path / 'report.html').read_text()
  assert 'First errors and what they cost' in page and 'Wrong is not dead' in page
  assert 'First-error accuracy (on_track) against tokens' in page
  samples = list(
    row for _, row in records.jsonl.iter_json_lines(
      records.jsonl.expand(str(tmp_path / 'samples'))[0]
    )
  )  # fmt: skip
  assert len(samples) == 40
  assert set(samples[0]['algorithms']) == {'mc.2', 'mc.8', 'free'}
  assert samples[0]['truth']['first_error'] is not None


def test_truth_is_the_worlds_own_where_rows_carry_none(files, tmp_path):
  rows = solutions()
  records.write(
    tmp_path / 'ref.jsonl', (labelled(t, 'reference', 256, 1) for t in rows)
  )
  found = run(
    files, tmp_path / 'run', audit__reference=f'{tmp_path}/ref.jsonl',
    audit__labelled=f'mc={files}/run_8',
  )  # fmt: skip
  path = 'audit/reference/off_track_alive[on_track]'
  total = sum(v == 0 for t in rows for v in t.labels['on_track'].values)
  apart = found['counters']['audit/reference/off_track_alive/ambiguous']
  assert found['metrics'][path]['n'] + apart == total
  without = run(
    files, tmp_path / 'none', audit__reference=f'{tmp_path}/ref.jsonl',
    audit__labelled=f'mc={files}/run_8', data__truth='',
  )  # fmt: skip
  assert not any('on_track' in p for p in without['metrics'])


def test_results_do_not_depend_on_the_order_of_rows(files, tmp_path):
  rows = list(records.read(str(files / 'reference.jsonl')))
  records.write(tmp_path / 'back.jsonl', rows[::-1])
  found = [
    run(files, tmp_path / name, audit__reference=path,
        audit__labelled=f'mc={files}/run_8')['metrics']
    for name, path in (('a', files / 'reference.jsonl'), ('b', tmp_path / 'back.jsonl'))
  ]  # fmt: skip
  assert found[0].keys() == found[1].keys()
  for path, metric in found[0].items():
    for key, value in metric.items():
      assert found[1][path][key] == pytest.approx(value), path


def test_complete_work_is_not_done_again(files, tmp_path, capsys):
  keys = {'audit__reference': f'{files}/reference.jsonl',
          'audit__labelled': f'mc={files}/run_2'}  # fmt: skip
  first = run(files, tmp_path, **keys)
  assert capsys.readouterr().err.endswith(f'{tmp_path}: results.json, report.html\n')
  assert run(files, tmp_path, **keys) == first
  assert 'this audit is complete' in ''.join(capsys.readouterr())


@pytest.mark.parametrize(
  ('labelled', 'message'),
  [
    ('', 'names nothing'),
    ('path.jsonl', 'form NAME=PATH'),
    ('a=x.jsonl,a=y.jsonl', "the name 'a' is given twice"),
    ('a=nowhere.jsonl', 'no such file'),
    ('a={files}/free.jsonl', "no solution carries a label set 'a' .there: x."),
  ],
)
def test_bad_names_are_one_sentence(files, tmp_path, labelled, message):
  with pytest.raises(UserError, match=message):
    run(
      files, tmp_path, audit__reference=f'{files}/reference.jsonl',
      audit__labelled=labelled.format(files=files),
    )  # fmt: skip


def test_reference_must_be_named(files, tmp_path):
  with pytest.raises(UserError, match=r'audit\.reference='):
    run(files, tmp_path, audit__labelled=f'mc={files}/run_2')


def test_names_and_label_sets():
  assert audit.parse('a.8=p/q.jsonl@x, b=r') == [
    audit.Labelled('a.8', 'p/q.jsonl', 'x'),
    audit.Labelled('b', 'r', 'b'),
  ]
  assert audit.parse('a.8=p')[0].label == 'a'
  assert audit.parse_one('p', 'k', 'reference') == audit.Labelled(
    'reference', 'p', 'reference'
  )


def test_a_difference_of_the_size_of_rounding_has_a_scale():
  low, high = scales.bar_scale([{'value': 0.0, 'low': -1e-17, 'high': 0.0}])
  assert low < high


# --- Stopping rules.


def how_of(name, **options):
  """`how` as the algorithm itself writes it, of a solution that asks nothing."""
  entry = registry.ALGORITHMS[name]
  right = records.dataclasses.replace(
    solutions(1)[0], verdicts={'exact': records.Verdict(True)}
  )
  steps = entry.make(entry.options(**options))([right])
  try:
    asks = next(steps)
    while True:
      asks = steps.send(
        [[Continuation(f'{a.n_steps}.{i}', ('x',), True, 1) for i in range(a.k)]
         for a in asks]
      )  # fmt: skip
  except StopIteration as end:
    (labels,) = end.value.labelled[0].labels.values()
  return labels.how


def test_rules_are_read_from_what_the_algorithms_write():
  tau = 0.125
  rule, n_max = stopping.rule_of(how_of('sequential', k=4), tau)
  assert rule == stopping.AnySuccess(tau, 4) and n_max == 4
  assert stopping.rule_of(how_of('binary_search'), tau)[0].k == 8
  assert stopping.rule_of(how_of('mc_hard', k=6), tau)[0].k == 6
  assert stopping.rule_of(how_of('mc_soft'), tau) is None
  said = how_of('adaptive', rule='confidence', alpha=0.2, prefix_cap=30)
  rule, n_max = stopping.rule_of(said, tau)
  assert (rule.alpha, rule.tau, n_max) == (0.2, tau, 30)
  rule, n_max = stopping.rule_of(how_of('adaptive', tau=0.25, prefix_cap=9), tau)
  assert isinstance(rule, stopping.Posterior) and rule.tau == 0.25 and n_max == 9


def test_the_posterior_rule_is_the_one_that_the_algorithm_follows():
  """On a wrong solution of two steps both make the same claim after every rollout."""
  options = adaptive.AdaptiveOptions(cap=30, prefix_cap=30)
  rule, _ = stopping.rule_of(how_of('adaptive', cap=30, prefix_cap=30), 0.125)
  wrong = records.Trajectory(
    'a', 'p', 'q', ('one', 'two'), gold_answer='1',
    verdicts={'exact': records.Verdict(False)},
  )  # fmt: skip
  for v, seed in ((0.0, 0), (0.05, 1), (0.2, 2), (0.5, 3), (1.0, 4)):
    rng = np.random.default_rng(seed)
    steps = adaptive.adaptive(options)([wrong])
    asks, correct, n = next(steps), 0, 0
    while True:
      assert rule.decide(np.array(correct), np.array(n)) == 0
      assert [a.n_steps for a in asks] == [1]
      right = bool(rng.random() < v)
      correct, n = correct + right, n + 1
      try:
        asks = steps.send([[Continuation(str(n), ('z',), right, 1)]])
      except StopIteration as end:
        first = end.value.labelled[0].first_error['adaptive']
        break
    claim = {0: -1, 1: 1, None: 0}[first]
    assert rule.decide(np.array(correct), np.array(n)) == claim
    assert claim or n == 30


def test_realised_errors_by_hand():
  """Up to k rollouts, one success: P(dead) = (1 - V)^k at every V."""
  said = {'x': {'hard': True, 'stopping': 'first_success', 'k': 4}}
  metrics, tables = stopping.measure(said, 0.125, 20_000, 0)

  def at(metric, v):
    return metrics[f'audit/stopping/{metric}@V={v:g}[x]']

  assert at('error', 0)['value'] == at('error', 1)['value'] == 0
  assert at('error', 0.125)['value'] == 1  # both claims are false at tau
  false_alive = 1 - (1 - 0.075) ** 4
  assert at('error', 0.075)['low'] < false_alive < at('error', 0.075)['high']
  assert at('error', 0.175)['value'] == pytest.approx((1 - 0.175) ** 4, abs=0.012)
  assert at('rollouts', 0)['value'] == 4 and at('rollouts', 1)['value'] == 1
  assert [row.name for row in tables[0].rows] == ['x', 'wilson after each']
  assert stopping.measure({'x': {}}, 0.125, 10, 0) == ({}, [])


def test_stopping_is_part_of_the_audit(files, tmp_path):
  rows = [
    add(bare(t), 'labels', 'sequential',
        LabelSet('value', (1.0,) * t.n_steps, how_of('sequential')))
    for t in solutions()
  ]  # fmt: skip
  records.write(tmp_path / 'sequential.jsonl', rows)
  found = run(
    files, tmp_path / 'run', audit__reference=f'{files}/reference.jsonl',
    audit__labelled=f'sequential.8={tmp_path}/sequential.jsonl',
  )  # fmt: skip
  assert found['metrics']['audit/stopping/error@V=0[sequential.8]']['value'] == 0
  assert found['metrics']['audit/stopping/error@V=0.125[sequential.8]']['n'] == 50
  assert 'Stopping rules: false claims' in (tmp_path / 'run/report.html').read_text()
