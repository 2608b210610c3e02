"""Sets that are judged: read whole, each row once, and with what was met on the way."""

import dataclasses

import pytest
from evaluation_cases import candidate, solution
from tiny_runs import ROOT, arguments, refusal, results, run

from prm_jax import records
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.formats import importers
from prm_jax.jobs import configuration, hackability

CONFIG = str(ROOT / 'configs' / 'evaluate.py')
BANK = str(ROOT / 'configs' / 'bank.py')
KEYS = {
  'data.truth': 'human', 'data.validation': '', 'data.train': '', 'data.pools': '',
  'data.evaluate': '', 'evaluate.resamples': 5, 'evaluate.subsets': 2,
  'evaluate.threshold': 'fixed:0.5', 'report': False,
}  # fmt: skip


def evaluated(work, **keys):
  return arguments(work, CONFIG, KEYS, **keys)


def rows(names, right=True):
  """One solution each; the scores say where its first error is, or do not."""
  return [
    solution(n, [0.9, 0.1 if right else 0.9, 0.9], first=1, problem=f'problem {n}')
    for n in names
  ]


def pool(n_problems=3, n=4):
  return [
    candidate(f'p{p}', c, [0.1 * (c + 1)], c == p, str(c))
    for p in range(n_problems)
    for c in range(n)
  ]


@pytest.fixture
def files(tmp_path):
  """Two sets that share two rows; in the second these are the ones scored rightly."""
  a, b = tmp_path / 'a.jsonl', tmp_path / 'b.jsonl'
  records.write(a, rows('uvwx'))
  records.write(b, rows('wx') + rows('yz', right=False))
  return a, b


def test_a_set_is_whole_whatever_another_one_holds(files, tmp_path):
  a, b = files
  work = tmp_path / 'work'
  assert run(evaluated(work, data__evaluate=f'a={a},b={b}')) == 0
  held = results(work)
  metric = held['metrics']['b/process_bench/accuracy_error@fixed:0.5']
  assert (metric['n'], metric['value']) == (4, 0.5)
  for name in 'ab':
    assert held['counters'][f'{name}/read/trajectories'] == 4
    assert held['counters'][f'{name}/read/rows'] == 4


def test_what_was_met_in_reading_is_handed_on(files):
  argv = evaluated('unused', data__evaluate=f'a={files[0]}')
  sets, _, counters = hackability._sets(configuration.parse(argv).config)
  assert list(sets) == ['a'] and counters['a/read/trajectories'] == 4


def test_doubled_candidates_are_refused(tmp_path, capsys):
  """As written, and as the score job passes them on."""
  file = tmp_path / 'pool.jsonl'
  records.write(file, pool() + pool())
  said = 'rows repeat the id and the solution of another one'
  given = f'mine={file}'
  argv = evaluated(tmp_path / 'work', data__pools=given, data__checker='exact')
  told = refusal(argv, capsys)
  assert f'{file}: 12 of 24 {said}' in told and "'p0/0'" in told
  bank = {'data.pools': given, 'score_files': '', 'data.checker': 'exact'}
  assert said in refusal(arguments(tmp_path / 'bank', BANK, bank), capsys)
  passed = list(importers.stream(str(file)))
  records.write(
    file, [records.add(t, 'verdicts', 'x', t.verdicts['exact']) for t in passed]
  )
  assert said in refusal(argv, capsys)


def test_doubled_rows_of_sets_are_refused(files, tmp_path, capsys):
  a, b = files
  twice = tmp_path / 'twice.jsonl'
  records.write(twice, rows('uvu'))
  for key in ('data__evaluate', 'data__validation'):
    argv = evaluated(tmp_path / 'work', **{'data__evaluate': a, key: twice})
    assert '1 of 3 rows repeat the id and' in refusal(argv, capsys)
  # Validation is one set: what two files share would be in it twice.
  keys = {'data__evaluate': f'more={b}', 'data__validation': f'a={a},b={b}'}
  said = refusal(evaluated(tmp_path / 'both', **keys), capsys)
  assert "'validation': id 'w' occurs more than once" in said


def test_an_id_alone_may_repeat(tmp_path):
  """Public sources repeat keys; samples that say the same may be told apart."""
  first = candidate('p', 0, [0.5], True, '1')
  others = [
    dataclasses.replace(first, steps=('other',)),
    dataclasses.replace(first, sample_index=1),
    dataclasses.replace(first, problem_id='q'),
  ]
  file = tmp_path / 'pool.jsonl'
  records.write(file, [first, *others])
  held, counters = importers.read(str(file), distinct=True)
  assert len({t.id for t in held}) == 4 and counters['repeated_ids'] == 3
  records.write(file, [first, first])
  named = sources.parse(f'mine={file}')
  for dedupe in ('none', 'across'):  # how often a policy says a thing trains it
    assert len(sources.load(named, dedupe=dedupe).trajectories) == 2
  with pytest.raises(UserError, match='1 of 2 rows repeat'):
    sources.load(named, dedupe='refuse')
