"""What training and evaluation sets share: planted copies, and the real ones."""

import dataclasses
import gzip
import json
import os

import numpy as np
import pytest
from evaluation_cases import world
from tiny_runs import refusal, run

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.evaluation.contamination import Rule, Training, summary, words
from prm_jax.formats import importers
from prm_jax.records import Trajectory

DATA = os.environ.get('PRM_JAX_DATA', '')

LONG = (
  'A train leaves the station at noon and travels north at sixty miles an hour until '
  'it meets another train that left two hours later from the same place.'
)
STEPS = (
  'The first train has travelled for two hours before the second one starts at all.',
  'So the distance between them is sixty times two, which is 120 miles.',
)


def row(name, question, steps=('short step',), **fields):
  return Trajectory(
    id=name, problem_id=fields.pop('problem', name), question=question, steps=steps,
    **fields,
  )  # fmt: skip


def one(training, question, steps=('short step',), **fields):
  return training.check([row('x', question, steps, **fields)])[0]


@pytest.fixture(scope='module')
def training():
  return Training(
    [
      row('long', LONG, STEPS),
      row('other', 'How many primes are there below one hundred and seven?'),
      row('tiny', 'What is 2 + 2?', ('It is 4.',)),
    ]
  )


def test_words_hide_no_copy():
  assert words('Ｆｉｎｄ\u00a0the  VALUE,\nof\t$x_1$!') == [
    'find',
    'the',
    'value',
    'of',
    'x_1',
  ]
  assert words(' .,;') == []


def test_equal_after_normalisation(training):
  found = one(training, LONG.upper().replace(' ', '\n  ').replace('.', ' !'))
  assert found.problem.equal and found.problem.match == 'long' and found.by_problem
  assert found.problem.overlap == 1.0 and not found.by_solution


def test_overlap_counts_ngrams_by_hand(training):
  # 29 words have 17 13-grams; another last word spares 16 of them.
  changed = LONG.replace('place.', 'city.')
  assert len(words(LONG)) == 29
  found = one(training, changed)
  assert not found.problem.equal and found.problem.overlap == pytest.approx(16 / 17)
  assert found.by_problem and found.problem.match == 'long'
  # The 15th word changed: the 13-grams that start at 3 to 15 are lost, 4 are left.
  parts = LONG.split()
  parts[14] = 'seventy'
  found = one(training, ' '.join(parts))
  assert found.problem.overlap == pytest.approx(4 / 17) and not found.by_problem
  assert Rule().fits(False, 0.5) and not Rule().fits(False, 0.49)
  assert Rule(share=0.0).fits(False, 0.01) and not Rule(share=0.0).fits(False, 0.0)
  gpt3 = Training([row('long', LONG)], Rule(share=0.0))
  assert one(gpt3, ' '.join(parts)).by_problem
  assert not one(gpt3, 'Nothing of this was ever anywhere in the training text.').shared


def test_short_texts_are_looked_for_whole(training):
  found = one(training, 'how many primes are there below one hundred and seven')
  assert (found.problem.equal, found.problem.n, found.problem.overlap) == (
    True,
    10,
    1.0,
  )
  # Nine words of those ten, as one 9-gram inside the training question.
  found = one(training, 'many primes are there below one hundred and seven')
  assert (found.problem.equal, found.problem.n, found.problem.overlap) == (
    False,
    9,
    1.0,
  )
  found = one(training, 'What is 2+2')
  assert (found.problem.equal, found.problem.overlap) == (True, None)
  assert not one(training, 'What is 3+2').shared and not one(training, '').shared


def test_ngrams_do_not_reach_across_texts():
  half = LONG.split()
  held = [row('a', ' '.join(half[:15])), row('b', ' '.join(half[15:]))]
  found = one(Training(held), ' '.join(half[9:21]))
  assert found.problem.overlap == 0 and found.problem.match == ''


def test_solutions_and_steps(training):
  found = one(training, 'An unseen question of some length?', STEPS)
  assert found.solution.equal and found.by_solution and not found.by_problem
  assert (found.steps, found.steps_equal, found.shared) == (2, 2, True)
  mixed = one(training, 'Unseen?', ('Something else is said here in front.', STEPS[1]))
  assert (mixed.steps, mixed.steps_equal) == (2, 1) and not mixed.solution.equal
  again = one(training, 'Unseen?', (' '.join(STEPS),))
  assert again.solution.equal and again.steps_equal == 0
  tiny = one(training, 'An unseen question of some length?', ('It is 4.',))
  assert tiny.solution.equal and not tiny.by_solution


def test_rows_are_known_by_what_they_were_made_from(training):
  meta = {'original_question': LONG, 'original_process': list(STEPS)}
  found = one(training, 'It was changed altogether.', meta=meta)
  assert found.by_problem and found.by_solution
  assert not one(training, 'It was changed altogether.', meta={'k': 1}).shared


def test_summary_counts_rows_and_problems(training):
  rows = [
    row('1', LONG, problem='p'),
    row('2', LONG, STEPS, problem='p'),
    row('3', 'No'),
  ]
  counts = summary(training.check(rows))
  assert (counts['rows'], counts['problems'], counts['problems_shared']) == (3, 2, 1)
  assert (counts['shared'], counts['shared_by_problem']) == (2, 2)
  assert (counts['shared_by_solution'], counts['question_too_short']) == (1, 1)


def test_a_rule_that_makes_no_sense_is_refused():
  for wrong in ({'n': 3}, {'share': 1.5}, {'shortest': 0}):
    with pytest.raises(UserError, match='1 <= shortest <= n'):
      Rule(**wrong)


def checked(workdir, **overrides):
  words = [f'--config.{k}={v}' for k, v in overrides.items()]
  config = '--config=configs/contamination.py'
  return ['prm_jax', config, f'--workdir={workdir}', *words]


def test_the_job_names_the_rows_and_measures_without_them(tmp_path, capsys):
  """20 of 60 problems are planted in training, and the scorer knows only those."""
  rng = np.random.default_rng(0)
  judged, train = [], []
  for t in world('w', 60, 2, seed=5):
    planted = int(t.problem_id[1:]) < 20
    question = f'Problem {t.problem_id} asks for a number that is written nowhere else.'
    truth = np.array(t.labels['on_track'].values)
    values = (6 if planted else 0) * (2 * truth - 1) + rng.normal(size=len(truth))
    scores = {'prm': dataclasses.replace(t.scores['prm'], values=tuple(values))}
    judged.append(dataclasses.replace(t, question=question, scores=scores))
    if planted and t.sample_index == 0:
      text = question.upper()
      train.append(dataclasses.replace(t, id=f'train_{t.id}', question=text, scores={}))
  records.write(tmp_path / 'judged.jsonl', judged)
  records.write(tmp_path / 'train.jsonl', train)
  words = {
    'data.evaluate': f'set={tmp_path}/judged.jsonl', 'data.pools': '',
    'data.validation': '', 'data.train': '', 'report': False, 'evaluate.resamples': 50,
  }  # fmt: skip
  argv = [f'--config.{k}={v}' for k, v in words.items()]
  evaluated = tmp_path / 'evaluated'
  config = '--config=configs/evaluate.py'
  assert run(['prm_jax', config, f'--workdir={evaluated}', *argv]) == 0
  more = {
    'data.train': tmp_path / 'train.jsonl',
    'contamination.run': evaluated,
    'evaluate.resamples': 50,
  }
  assert run(checked(tmp_path / 'check', **more)) == 0
  results = json.loads((tmp_path / 'check' / 'results.json').read_text())
  metrics, counters = results['metrics'], results['counters']
  assert metrics['set/contamination/shared_by_problem']['value'] == pytest.approx(1 / 3)
  assert (counters['set/problems_shared'], counters['set/problems']) == (20, 60)
  auroc = metrics['set/steps/auroc']
  assert auroc['value'] > auroc['without']['value'] + 0.1
  assert auroc['difference'] == pytest.approx(
    auroc['value'] - auroc['without']['value']
  )
  assert abs(auroc['without']['value'] - 0.5) < 0.15
  f1 = metrics['set/process_bench/f1@argmax']
  assert (f1['n'], f1['without']['n']) == (120, 80)
  with gzip.open(tmp_path / 'check' / 'samples' / 'set.jsonl.gz', 'rt') as file:
    rows = [json.loads(line) for line in file]
  shared = [r for r in rows if r['by_problem']]
  assert {r['problem_id'] for r in shared} == {f'w{i}' for i in range(20)}
  assert all(r['problem']['match'] == f'train_{r["problem_id"]}_0' for r in shared)
  text = (tmp_path / 'check' / 'table.md').read_text()
  assert '|set/steps/auroc|' in text and text in (said := capsys.readouterr()).out
  assert said.err.endswith('check: results.json, table.md\n')
  # Again: done already. And nothing is left where every row is shared.
  assert run(checked(tmp_path / 'check', **more)) == 0
  more |= {'data.train': tmp_path / 'judged.jsonl'}
  assert run(checked(tmp_path / 'all', **more)) == 0
  metrics = json.loads((tmp_path / 'all' / 'results.json').read_text())['metrics']
  assert metrics['set/steps/auroc']['without']['value'] is None
  assert 'nothing left' in (tmp_path / 'all' / 'table.md').read_text()


def test_mistakes_end_in_a_sentence(tmp_path, capsys):
  argv = checked(tmp_path)
  assert 'data.train names no training files' in refusal(argv, capsys)
  argv = checked(tmp_path, **{'contamination.drop': 'everything'})
  assert "contamination.drop='everything'" in refusal(argv, capsys)
  argv = checked(tmp_path, **{'data.train': 'x', 'contamination.n': 2})
  assert '1 <= shortest <= n' in refusal(argv, capsys)


@pytest.mark.slow
@pytest.mark.skipif(
  not DATA or not os.path.isdir(f'{DATA}/prmbench'),
  reason='set PRM_JAX_DATA to the folder that holds prm800k and prmbench',
)
def test_phase_1_is_found_in_prmbench_where_it_is():
  source = f'{DATA}/prm800k/phase1_train_plus.stepwise-critic.jsonl.gz'
  train, _ = importers.read(source, 'prm800k_steps')
  bench, _ = importers.read(f'{DATA}/prmbench', 'prmbench')
  found = Training(train).check(bench)
  inside = [f for t, f in zip(bench, found) if 'train_p1_first400' in t.source]
  outside = [f for t, f in zip(bench, found) if 'train_p1_first400' not in t.source]
  assert (len(inside), len(outside)) == (3203, 3013)
  # Seven rows are in another notation: frac12, line ends that were escaped twice.
  assert sum(f.shared for f in inside) == 3196
  # One test problem that differs from a training problem by a number.
  assert sum(f.shared for f in outside) == 17
  assert not any(f.problem.equal or f.by_solution for f in outside)
