"""Whether A is better than B: the library on known data, and the job on runs."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
from evaluation_cases import candidate, world
from tiny_runs import refusal, run

from prm_jax import jsonl, records
from prm_jax.errors import UserError
from prm_jax.evaluation import compare_text, same_rows
from prm_jax.evaluation.compare import SEEDS, compare
from prm_jax.evaluation.intervals import means, ratio, resamples
from prm_jax.formats import importers
from prm_jax.records import LabelSet, ScoreSet, Verdict

IDS = [f'p{i:03}' for i in range(100)]
SAMPLE = resamples(IDS, 300, contributions=True)
F1 = 'heldout/process_bench/f1@argmax'


def rows_right(columns, sample=SAMPLE):
  return means(np.asarray(columns, float).T, sample)


def two_methods(gain=20):
  """One row a problem: B has the first 50 right, A those and `gain` more."""
  b = np.arange(100) < 50
  return rows_right([b | (np.arange(100) >= 100 - gain), b])


def test_a_shown_difference_by_hand():
  a, b = two_methods()
  (row,) = compare([{'x/steps/accuracy': a}], [{'x/steps/accuracy': b}]).rows
  assert (row.a, row.b, row.difference) == pytest.approx((0.7, 0.5, 0.2))
  assert 0 < row.low < 0.2 < row.high and row.winner == 'a'
  # 20 rows that only A has right: 2 / 2^20; drawn signs are never below 1 / 20,001.
  assert row.mcnemar == {'only_a': 20, 'only_b': 0, 'p': pytest.approx(2 / 2**20)}
  assert row.p == row.p_holm == pytest.approx(1 / 20001)
  assert row.standard_error == pytest.approx(np.sqrt(0.2 * 0.8 / 100), rel=0.15)
  assert row.detectable == pytest.approx(2.8016 * row.standard_error, rel=1e-4)
  back = compare([{'x/steps/accuracy': b}], [{'x/steps/accuracy': a}]).rows[0]
  assert (back.difference, back.winner, back.p) == (-row.difference, 'b', row.p)


def test_lower_is_better_where_it_is():
  a, b = two_methods()
  (row,) = compare([{'x/calibration/brier': a}], [{'x/calibration/brier': b}]).rows
  assert (row.better, row.winner) == ('lower', 'b')
  assert compare_text.statement(row).startswith('B is better than A on x/calibration')


def test_few_problems_try_all_signs_and_many_metrics_cost():
  a, b = two_methods(gain=6)
  one = compare([{'m': a}], [{'m': b}]).rows[0]
  assert one.p == 2 / 2**6 and 'all signs' in one.test and one.winner == 'a'
  # One on which nothing differs cannot be rejected and costs nothing; another does.
  rows = compare([{'m': a, 'same': a}], [{'m': b, 'same': a}]).rows
  assert [r.p_holm for r in rows] == [2 / 2**6, 1] and rows[1].identical
  c, d = two_methods(gain=5)
  rows = compare([{'m': a, 'n': c}], [{'m': b, 'n': d}]).rows
  assert [r.p_holm for r in rows] == [4 / 2**6, 4 / 2**6]
  assert rows[0].winner == '' and not rows[0].identical
  assert compare_text.statement(rows[0]).startswith('Not shown on m: difference +0.06')


def test_metrics_in_the_units_of_scores_need_scores_of_one_kind():
  a, b = two_methods()
  path = 'x/trajectory/smoothness'
  runs = [{'m': a, path: a}], [{'m': b, path: b}]
  assert len(compare(*runs, kinds=['logit']).rows) == 2
  found = compare(*runs, kinds=['logit', 'probability'])
  assert [r.metric for r in found.rows] == ['m']
  (reason,) = found.left_out
  assert reason.endswith('which differ (logit and probability)')
  assert found.left_out[reason] == [path]


def test_mcnemar_only_with_one_row_a_problem():
  rng = np.random.default_rng(0)
  count = np.full(100, 2.0)
  a, b = (ratio(rng.integers(0, 3, 100), count, SAMPLE) for _ in 'ab')
  assert compare([{'m': a}], [{'m': b}]).rows[0].mcnemar is None
  half = rows_right([rng.integers(0, 3, 100) / 2, rng.integers(0, 3, 100) / 2])
  assert compare([{'m': half[0]}], [{'m': half[1]}]).rows[0].mcnemar is None


def test_what_cannot_be_paired_is_named():
  a, b = two_methods()
  other = rows_right(np.ones((1, 90)), resamples(IDS[:90], 300, contributions=True))[0]
  reseeded = rows_right(np.ones((1, 100)), resamples(IDS, 300, 1, contributions=True))[
    0
  ]
  fewer = dataclasses.replace(b, n=99)
  bare = dataclasses.replace(b, replicates=np.zeros(0))
  left = {'m': a, 'other': a, 'seed': a, 'n': a, 'bare': a, 'only_a': a}
  right = {'m': b, 'other': other, 'seed': reseeded, 'n': fewer, 'bare': bare}
  found = compare([left], [right])
  assert [r.metric for r in found.rows] == ['m']
  assert found.left_out == {
    'over other problems': ['other'],
    'resampled with another seed or number of resamples': ['seed'],
    'over other rows of the same problems': ['n'],
    'without replicates': ['bare'],
    'not in every run, or undefined in one': ['only_a'],
  }
  text = compare_text.markdown(found, ['runs/a'], ['runs/b'])
  assert 'Not compared, over other problems: other.' in text
  with pytest.raises(
    UserError, match='no metric of A and B can be compared: 1 over oth'
  ):
    compare([{'other': a}], [{'other': other}])
  with pytest.raises(UserError, match='A has 2 runs and B has 1'):
    compare([left, left], [right])


def test_seeds_bring_their_own_variance_and_it_is_named():
  rng = np.random.default_rng(1)
  base = rng.random(100)

  def runs(shifts):
    return [{'m': e} for e in rows_right([base + s for s in shifts])]

  # Differences .1, .3, .2 by seed, the same for every problem.
  (row,) = compare(runs([0.1, 0.3, 0.2]), runs([0, 0, 0])).rows
  assert row.test == SEEDS and row.difference == pytest.approx(0.2)
  assert row.seeds['sd_seeds'] == pytest.approx(0.1)
  assert row.seeds['se_seeds'] == pytest.approx(0.1 / np.sqrt(3))
  assert row.seeds['se_problems'] == pytest.approx(0, abs=1e-12)
  # t = .2 / .0577 = 3.4641 with 2 degrees of freedom.
  assert row.p == pytest.approx(0.0742, abs=1e-4) and row.winner == ''
  assert 'standard error from seeds 0.0577, from problems 0.0000' in (
    compare_text.statement(row)
  )


def labelled(folder, name, seed=0, better=0.0, drop=()):
  """A file of labelled solutions whose saved scores know the truth more or less."""
  rng = np.random.default_rng(seed)
  rows = []
  for t in world('w', 60, 2, seed=5):
    if t.problem_id in drop:
      continue
    truth = np.array(t.labels['on_track'].values)
    values = (1 + better) * (2 * truth - 1) + rng.normal(size=len(truth))
    rows.append(
      dataclasses.replace(t, scores={'prm': ScoreSet('logit', tuple(values))})
    )
  path = folder / f'{name}.jsonl'
  records.write(path, rows)
  return path


def evaluated(folder, name, file, **more):
  values = {
    'data.evaluate': f'heldout={file}',
    'data.pools': '',
    'data.validation': '',
    'data.train': '',
    'report': False,
    'evaluate.resamples': 200,
    **more,
  }
  words = [f'--config.{k}={v}' for k, v in values.items()]
  where = folder / name
  config = '--config=configs/evaluate.py'
  assert run(['prm_jax', config, f'--workdir={where}', *words]) == 0
  return where


def compared(a, b, output, **more):
  words = [f'--config.{k}={v}' for k, v in more.items()]
  return [
    'prm_jax', '--config=configs/compare.py', f'--config.a={a}', f'--config.b={b}',
    f'--config.output={output}', *words,
  ]  # fmt: skip


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Evaluated runs: a good and a bad scorer with replicates, the same without, and
  the bad one on fewer problems."""
  folder = tmp_path_factory.mktemp('compare')
  keep = {'evaluate.replicates': True}
  good, bad = labelled(folder, 'good', 1, 1.5), labelled(folder, 'bad', 2)
  fewer = labelled(folder, 'fewer', 2, drop=('w3', 'w7'))
  return {
    'good': evaluated(folder, 'run_good', good, **keep),
    'bad': evaluated(folder, 'run_bad', bad, **keep),
    'good_bare': evaluated(folder, 'bare_good', good),
    'bad_bare': evaluated(folder, 'bare_bad', bad),
    'fewer': evaluated(folder, 'run_fewer', fewer, **keep),
  }


def test_the_job_compares_two_runs(runs, tmp_path, capsys):
  out = tmp_path / 'ab.json'
  assert run(compared(runs['good'], runs['bad'], out)) == 0
  found = json.loads(out.read_text())
  assert (found['schema_version'], found['job']) == (1, 'compare')
  row = found['metrics'][F1]
  values = [
    json.loads((runs[k] / 'results.json').read_text())['metrics'][F1]['value']
    for k in ('good', 'bad')
  ]
  assert [row['a'], row['b']] == pytest.approx(values)
  assert row['winner'] == 'a' and row['p_holm'] < 0.05
  assert row['low'] < row['value'] < row['high'] and row['test'].startswith('sign-flip')
  assert found['metrics']['heldout/steps/auroc']['p'] is not None
  assert not any('[' in path or '-' in path for path in found['metrics'])
  text = (tmp_path / 'ab.md').read_text()
  assert f'- A is better than B on {F1}: difference +' in text
  assert text == capsys.readouterr().out.rstrip('\n') + '\n'
  with gzip.open(tmp_path / 'ab.samples.jsonl.gz', 'rt') as file:
    rows = [json.loads(line) for line in file]
  assert len(rows) == 120
  assert sum(r['a_match'][0] for r in rows) > sum(r['b_match'][0] for r in rows)
  page = (tmp_path / 'ab.html').read_text()
  assert page.count('"disagreement":"') == 120
  assert page.index('id="tables"') < page.index('id="solutions"')
  assert page.count('<td data-name="A - B" title=') == 9
  assert page.count('<td data-name="p Holm">') == 9
  assert 'p Holm is over the 9 metrics that differ' in page


def test_a_run_and_itself_do_not_differ(runs, tmp_path, capsys):
  out = tmp_path / 'same.json'
  assert run(compared(runs['good'], runs['good'], out)) == 0
  text = (tmp_path / 'same.md').read_text()
  assert 'No metric differs.' in text and '|' not in text and 'P values' not in text
  assert f'The same for both on every resample: {F1}' in text
  page = (tmp_path / 'same.html').read_text()
  assert 'No metric differs.' in page and 'id="tables"' not in page


def test_only_its_own_files_are_written_over(runs, tmp_path, capsys):
  out = tmp_path / 'ab.json'
  assert run(compared(runs['good'], runs['bad'], out)) == 0
  held = out.read_bytes()
  assert run(compared(runs['good'], runs['bad'], out)) == 0
  said = refusal(compared(runs['bad'], runs['good'], out), capsys)
  assert f'{out}: is there already; give another --config.output' in said
  assert out.read_bytes() == held
  results = runs['good'] / 'results.json'
  held = results.read_bytes()
  refusal(compared(runs['good'], runs['bad'], results), capsys)
  assert results.read_bytes() == held
  (tmp_path / 'README.md').write_text('by hand')
  said = refusal(compared(runs['good'], runs['bad'], tmp_path / 'README.json'), capsys)
  assert 'README.md: is there already' in said
  assert not (tmp_path / 'README.json').exists()


def test_scores_of_other_kinds_have_other_units(runs, tmp_path):
  path = labelled(tmp_path, 'probable', 1)
  rows = []
  for t in records.read(str(path)):
    values = tuple(1 / (1 + np.exp(-v)) for v in t.scores['prm'].values)
    rows.append(dataclasses.replace(t, scores={'prm': ScoreSet('probability', values)}))
  records.write(path, rows)
  other = evaluated(tmp_path, 'run', path, **{'evaluate.replicates': True})
  assert run(compared(runs['good'], other, tmp_path / 'x.json')) == 0
  left_out = json.loads((tmp_path / 'x.json').read_text())['not_compared']
  reason = 'in the units of the scores, which differ (logit and probability)'
  assert left_out[reason] == ['heldout/trajectory/smoothness']


def test_runs_without_replicates_are_measured_again_to_the_same_numbers(runs, tmp_path):
  kept, bare = tmp_path / 'kept.json', tmp_path / 'bare.json'
  more = {
    'evaluate.resamples': 200,
    'compare.metrics': 'heldout/process_bench/*,*/auroc',
  }
  assert run(compared(runs['good'], runs['bad'], kept, **more)) == 0
  assert run(compared(runs['good_bare'], runs['bad_bare'], bare, **more)) == 0
  kept, bare = (json.loads(f.read_text())['metrics'] for f in (kept, bare))
  assert kept.keys() == bare.keys() and len(kept) == 4
  for path, row in kept.items():
    for key in ('value', 'low', 'high', 'p', 'p_holm', 'detectable'):
      assert bare[path][key] == pytest.approx(row[key], abs=2e-4), (path, key)


def test_runs_on_different_rows_are_refused_by_name(runs, tmp_path, capsys):
  said = refusal(compared(runs['good'], runs['fewer'], tmp_path / 'x.json'), capsys)
  assert "split 'heldout': 4 rows only in run 1" in said and 'w3_0' in said
  assert '--config.compare.common=true' in said
  assert not (tmp_path / 'x.json').exists()


def test_the_rows_in_common_are_compared_and_counted(runs, tmp_path):
  out = tmp_path / 'common.json'
  argv = compared(runs['good'], runs['fewer'], out, **{'compare.common': True})
  assert run(argv) == 0
  found = json.loads(out.read_text())
  assert found['counters']['heldout/rows_compared'] == 116
  assert found['counters']['heldout/rows_not_in_every_run'] == 4
  assert found['metrics'][F1]['n'] == 116


def test_rows_with_another_truth_are_other_rows(runs, tmp_path, capsys):
  path = labelled(tmp_path, 'relabelled', 2)
  rows = list(records.read(str(path)))
  flipped = tuple(1 - v for v in rows[0].labels['on_track'].values)
  rows[0] = dataclasses.replace(
    rows[0], labels={'on_track': LabelSet('correctness', flipped)}, first_error={}
  )
  records.write(path, rows)
  other = evaluated(tmp_path, 'run', path)
  said = refusal(compared(runs['good'], other, tmp_path / 'x.json'), capsys)
  assert '1 rows with other steps or another truth in run 2' in said


def test_seeds_are_a_pattern(runs, tmp_path):
  out = tmp_path / 'seeds.json'
  both = f'{runs["good"]},{runs["good_bare"]}'
  pattern = str(runs['bad'].parent / '*_bad')
  more = {'evaluate.resamples': 200, 'compare.metrics': F1}
  assert run(compared(both, pattern, out, **more)) == 0
  found = json.loads(out.read_text())
  row = found['metrics'][F1]
  assert (found['counters']['runs_a'], found['counters']['runs_b']) == (2, 2)
  assert row['seeds']['n'] == 2 and row['seeds']['se_problems'] > 0


def test_two_scorers_of_one_run(tmp_path):
  rng = np.random.default_rng(0)
  rows, scores = [], {'good': [], 'bad': []}
  for p in range(60):
    for c in range(4):
      right = bool(rng.random() < 0.5)
      answer = '1' if right else str(c + 2)
      rows.append(candidate(f'p{p}', c, (0.5,), right, answer))
      for name, noise in (('good', 0.1), ('bad', 5.0)):
        value = float(2 * right - 1 + noise * rng.normal())
        place = {'problem_id': f'p{p}', 'candidate_index': c}
        scores[name].append({**place, 'step_scores': [value]})
  pool = tmp_path / 'pool.jsonl'
  records.write(pool, rows)
  for name, lines in scores.items():
    jsonl.write_json_lines(tmp_path / f'{name}.jsonl', lines)
  given = ','.join(f'pool:{name}={tmp_path / name}.jsonl' for name in scores)
  more = {'data.evaluate': '', 'data.pools': f'pool={pool}', 'score_files': given}
  both = evaluated(tmp_path, 'run', '', **more, **{'evaluate.replicates': True})
  out = tmp_path / 'x.json'
  assert run(compared(f'{both}@good', f'{both}@bad', out)) == 0
  metrics = json.loads(out.read_text())['metrics']
  assert metrics['pool/best_of_n/prm_min@4']['winner'] == 'a'
  assert 'pool/best_of_n/majority@4' not in metrics
  assert 'data-name="A - B"' in (tmp_path / 'x.html').read_text()


def test_pools_of_other_candidates_are_refused(tmp_path, capsys):
  """The same problems, names and numbers of candidates: nothing else tells."""
  made = {}
  for name, first in (('a', 0), ('b', 4), ('again', 0)):
    rows = [
      candidate(f'p{p}', c, [c / 8], (p + c) % 3 == 0, str(c))
      for p in range(6)
      for c in range(first, first + 4)
    ]
    pool = tmp_path / f'{name}.jsonl'
    records.write(pool, rows)
    more = {'data.pools': f'pool={pool}', 'evaluate.replicates': True}
    made[name] = evaluated(tmp_path, f'run_{name}', '', **{**more, 'data.evaluate': ''})
  out = tmp_path / 'x.json'
  for more in ({}, {'compare.common': True}):
    said = refusal(compared(made['a'], made['b'], out, **more), capsys)
    assert said.startswith('pool (pool): ') and 'on different rows of it' in said
  assert run(compared(made['a'], made['again'], out)) == 0
  results = json.loads((made['a'] / 'results.json').read_text())
  del results['rows']
  (made['a'] / 'results.json').write_text(json.dumps(results))
  said = refusal(compared(made['a'], made['again'], out), capsys)
  assert 'does not say which rows it was measured on; evaluate it again' in said
  (made['a'] / 'results.json').write_text(json.dumps({**results, 'job': 'search'}))
  said = refusal(compared(made['a'], made['again'], out), capsys)
  assert 'holds results of job=search; compare takes runs that measured' in said


@pytest.mark.parametrize('change', ['id', 'problem_id', 'answer', 'verdicts', 'steps'])
def test_a_digest_is_of_what_metrics_read(change):
  row = candidate('p', 0, [0.5], True, '1')
  other = {
    'id': 'q', 'problem_id': 'q', 'answer': '2', 'steps': ('other',),
    'verdicts': {'exact': Verdict(False)},
  }[change]  # fmt: skip
  digest = lambda t: same_rows.digest([t], 'human', 'exact')
  assert digest(dataclasses.replace(row, **{change: other})) != digest(row)
  assert digest(dataclasses.replace(row, scores={})) == digest(row)


def test_benchmarks_of_the_suite_are_compared(tmp_path):
  rng = np.random.default_rng(0)
  rows = [
    {
      'id': f'x-{i}', 'generator': 'g', 'problem': f'Problem {i}?',
      'steps': ['a', 'b', 'c'], 'final_answer_correct': True,
      'label': int(rng.integers(-1, 3)),
    }
    for i in range(40)
  ]  # fmt: skip
  source = tmp_path / 'gsm8k.json'
  source.write_text(json.dumps(rows))
  judged, _ = importers.read(str(source), 'processbench')
  made = {}
  for name, strength in (('good', 4.0), ('bad', 0.0)):
    lines = []
    for t in judged:
      first = t.first_error['human']
      truth = np.array([1.0 if first < 0 or i < first else -1.0 for i in range(3)])
      values = (strength * truth + rng.normal(size=3)).tolist()
      scores = {'prm': {'kind': 'logit', 'values': values}}
      lines.append({'id': t.id, 'scores': scores})
    jsonl.write_json_lines(tmp_path / f'{name}.jsonl', lines)
    argv = {
      'data.evaluate': f'process_bench.gsm8k={source}:processbench',
      'score_files': tmp_path / f'{name}.jsonl', 'report': False,
      'evaluate.resamples': 100,
    }  # fmt: skip
    words = [f'--config.{k}={v}' for k, v in argv.items()]
    config = '--config=configs/evaluate.py:suite'
    made[name] = tmp_path / name
    assert run(['prm_jax', config, f'--workdir={made[name]}', *words]) == 0
  out = tmp_path / 'x.json'
  assert run(compared(made['good'], made['bad'], out)) == 0
  metrics = json.loads(out.read_text())['metrics']
  (path,) = [p for p in metrics if p.endswith('/gsm8k[40 of 400]/f1@argmax')]
  assert metrics[path]['winner'] == 'a' and metrics[path]['n'] == 40
  again = json.loads((made['good'] / 'results.json').read_text())['metrics'][path]
  assert metrics[path]['a'] == pytest.approx(again['value'])


@pytest.mark.parametrize(
  ('more', 'sentence'),
  [
    ({'a': ''}, 'compare needs --config.a=RUN'),
    ({'output': 'x.csv'}, '--config.output=x.csv: give it a name that ends in .json'),
    ({'output': ''}, 'compare needs --config.a=RUN'),
    ({'a': 'nowhere'}, 'nowhere: there is no results.json of a finished run'),
    ({'a': 'no*where'}, 'nothing fits the pattern'),
    (
      {'compare.metrics': F1 + ',*auroz*'},
      "compare.metrics='*auroz*' matches none of 10 metrics, for example heldout/",
    ),
    ({'a': '{good},{good}', 'b': '{bad},{bad}'}, '/run_good is named twice; give'),
    ({'a': '{good},{good}/results.json'}, '/run_good/results.json is named twice'),
    ({'b': '{bad}*,{bad}'}, '/run_bad is named twice'),
  ],
)
def test_mistakes_end_in_a_sentence(runs, tmp_path, capsys, more, sentence):
  more = {k: v.format_map(runs) for k, v in more.items()}
  given = {'a': runs['good'], 'b': runs['bad'], 'output': tmp_path / 'x.json', **more}
  words = [f'--config.{k}={v}' for k, v in given.items()]
  argv = ['prm_jax', '--config=configs/compare.py', *words]
  assert sentence in refusal(argv, capsys)
