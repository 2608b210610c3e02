"""Labels through the command line: every algorithm, with a tiny policy."""

import collections
import dataclasses
import json
import shutil

import pytest
import tiny_policies
import tiny_runs
from often import often
from test_chunks import Killed
from tiny_runs import (
  ROOT,
  arguments,
  contents,
  finish,
  record,
  refusal,
  results,
  run,
  start,
  write_lines,
)

from configs import base
from prm_jax import records
from prm_jax.jobs import chunks, label, labellers
from prm_jax.labeling import registry

CONFIG = str(ROOT / 'configs' / 'label.py')
TINY = {
  'sampling.max_tokens': 16,
  'chunk.size': 2,
  'engine.slots': 8,
  'engine.group': 4,
  'parallel.data': 1,
  'evaluate.resamples': 10,
}
# What makes an algorithm small; and what it needs in the rows.
OPTIONS = {
  'mc_hard': {'k': 2},
  'mc_soft': {'k': 2},
  'er_prm': {'k': 2},
  'sequential': {'k': 2},
  'binary_search': {'k': 2},
  'adaptive': {'cap': 12, 'prefix_cap': 6},
  'scan': {'k': 2, 'min_confidence': 0.01},
  'free_prm': {},
  'consensus': {'first': 'human', 'second': 'other'},
  'omega_prm': {'k': 2, 'n_filter': 4, 'search_limit': 2},
  'un_prm': {'rollouts': 12, 'n_chosen': 2},
  'grounded_prm': {'rounds': 2, 'children': 2},
  'hrm': {'children': 2, 'depth': 2},
}
PROMISED = ('labelled', 'rollouts', 'trees', 'chunks')


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  return tiny_policies.export(tmp_path_factory.mktemp('policy'))


def solution(i, k, steps, right, **changes):
  """Solution k of problem i, as a rollout leaves it."""
  n = len(steps)
  row = record(
    i, id=f's-{i}-{k}', steps=steps, gold_answer=tiny_policies.OFTEN, source='mine',
    separator='\n', response='\n'.join(steps), answer=steps[-1],
    verdicts={'exact': {'value': right}}, sample_index=k,
    labels={
      'human': {'kind': 'correctness', 'values': [1.0] * (n - 1) + [float(right)]},
      'other': {'kind': 'correctness', 'values': [1.0] + [float(right)] * (n - 1)},
    },
    first_error={'human': -1 if right else n - 1, 'other': -1 if right else 1},
    tokens=[{'ids': [48 + k, 49 + p], 'logprobs': [-0.5 - k, -0.1]} for p in range(n)],
  )  # fmt: skip
  return {**row, **changes}


def rows():
  return [
    row
    for i in range(5)
    for row in (
      solution(i, 0, ['1+1=2', '2-1=1', '1+1=2'], True),
      solution(i, 1, ['1+3=4', f'4+{i}={i + 4}'], False),
      solution(i, 2, ['2+3=5', '5+1=6', '6+1=8', '8-2=5'], False),
    )
  ]


@pytest.fixture(scope='module')
def solutions(tmp_path_factory):
  return write_lines(tmp_path_factory.mktemp('rows') / 'mine.jsonl.gz', rows())


def argv(workdir, policy, solutions, algorithm, **overrides):
  own = {f'label__{k}': v for k, v in OPTIONS.get(algorithm, {}).items()}
  given = {
    'engine__policy': policy, 'input': solutions, 'label__algorithm': algorithm,
    **own, **overrides,
  }  # fmt: skip
  return arguments(workdir, CONFIG, TINY, **given)


def promised(workdir):
  held = results(workdir)
  files = contents(workdir)
  kept = {k: v for k, v in files.items() if k.split('/')[0] in PROMISED}
  return kept, held['metrics'], held['counters']


def rows_of(workdir, folder='labelled'):
  return list(records.read(str(workdir / folder)))


def test_every_algorithm_is_tried():
  assert set(OPTIONS) == set(registry.ALGORITHMS)


def test_every_option_has_a_key():
  keys = set(base.get_config().label) - set(labellers.OWN_KEYS)
  options = {
    f.name
    for entry in registry.ALGORITHMS.values()
    for f in dataclasses.fields(entry.options)
  }
  assert keys == options - set(labellers.SET_ELSEWHERE)


@pytest.mark.parametrize(
  'algorithm',
  often(registry.ALGORITHMS, 'mc_hard', 'adaptive', 'omega_prm', 'grounded_prm'),
)
def test_algorithms(algorithm, policy, solutions, tmp_path, monkeypatch):
  """Rows, evidence and results; killed and restarted, and in shards: the same."""
  work = tmp_path / 'straight'
  assert run(argv(work, policy, solutions, algorithm)) == 0
  found = rows_of(work)
  given = {r['id']: r for r in rows()}
  kept = [t for t in found if t.id in given]
  assert [t.id for t in kept] == list(given)
  for t in kept:
    before = records.from_dict(given[t.id])
    assert {'human', 'other'} <= set(t.labels) <= {'human', 'other', algorithm}
    assert (
      dataclasses.replace(
        t, labels=before.labels, first_error=before.first_error, meta=before.meta
      )
      == before
    )
    assert (algorithm in t.labels) or t.meta['label_skipped']
  labelled = [t for t in found if algorithm in t.labels]
  assert labelled
  held = results(work)
  counters, metrics = held['counters'], held['metrics']
  assert counters['solutions'] == 15 and counters['problems'] == 5
  assert counters['labelled'] == sum(algorithm in t.labels for t in kept)
  assert counters[f'{algorithm}/labels'] >= 1
  if registry.ALGORITHMS[algorithm].needs_engine:
    rollouts = rows_of(work, 'rollouts')
    assert len(rollouts) == counters['rollouts'] > 0
    assert sum(t.meta['n_tokens'] for t in rollouts) == counters['tokens']
    assert all(t.parent is not None for t in rollouts)
    assert f'{algorithm}/cost/tokens' in metrics
    assert all(t.labels[algorithm].how['completer'] for t in labelled)
  assert 'skipped/' not in counters
  if counters.get('rows_found_by_search'):
    assert len(found) - len(kept) == counters['rows_found_by_search']

  write = chunks._Books.write
  calls = collections.Counter()

  def dies(self, number, made):
    calls['write'] += 1
    if calls['write'] == 2:
      raise Killed
    write(self, number, made)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(chunks._Books, 'write', dies)
    run(argv(tmp_path / 'killed', policy, solutions, algorithm))
  assert run(argv(tmp_path / 'killed', policy, solutions, algorithm)) == 0
  assert promised(tmp_path / 'killed') == promised(work)
  for i in (1, 0):
    shards = argv(tmp_path / 'shards', policy, solutions, algorithm, shard=f'{i}/2')
    assert run(shards) == 0
  assert promised(tmp_path / 'shards') == promised(work)


@pytest.mark.slow
def test_straight_into_training(policy, solutions, tmp_path):
  assert run(argv(tmp_path / 'label', policy, solutions, 'mc_soft')) == 0
  training = {
    **tiny_runs.TINY, **tiny_runs.BARE,
    'data.train': tmp_path / 'label' / 'labelled', 'data.label': 'mc_soft',
  }  # fmt: skip
  config = str(ROOT / 'configs' / 'pqm.py')
  assert run(arguments(tmp_path / 'pqm', config, training)) == 0
  counters = results(tmp_path / 'pqm')['counters']
  assert (
    counters['train/rows_used'] == results(tmp_path / 'label')['counters']['labelled']
  )


@pytest.mark.slow
def test_all_devices_and_other_chunks(policy, solutions, tmp_path):
  for name, options in {
    'one': {}, 'eight': {'parallel__data': 0}, 'large': {'chunk__size': 5},
  }.items():  # fmt: skip
    assert run(argv(tmp_path / name, policy, solutions, 'mc_soft', **options)) == 0
  assert promised(tmp_path / 'eight') == promised(tmp_path / 'one')
  one, large = rows_of(tmp_path / 'one'), rows_of(tmp_path / 'large')
  assert one == large  # a problem's labels do not depend on its company


def test_a_name_of_its_own_and_a_second_algorithm(policy, solutions, tmp_path, capsys):
  first = argv(tmp_path / 'a', policy, solutions, 'mc_soft', label__name='soft')
  assert run(first) == 0
  labelled = tmp_path / 'a' / 'labelled'
  assert run(argv(tmp_path / 'b', policy, labelled, 'mc_hard')) == 0
  both = rows_of(tmp_path / 'b')
  assert all({'soft', 'mc_hard'} <= set(t.labels) for t in both)
  assert all({'soft', 'mc_hard'} <= set(t.meta['label_cost']) for t in both)
  again = argv(tmp_path / 'c', policy, labelled, 'er_prm', label__name='soft')
  said = refusal(again, capsys)
  assert "'soft' is there already" in said and 'label.name' in said


def test_continuations_cut_at_tokens(policy, solutions, tmp_path):
  cut = {'splitting__how': 'low_confidence', 'splitting__threshold': 0.1}
  assert run(argv(tmp_path, policy, solutions, 'mc_hard', **cut)) == 0
  steps = [s for t in rows_of(tmp_path, 'rollouts') for s in t.steps[-1:]]
  assert any('\n' not in s and '=' not in s for s in steps)


def test_without_evidence(policy, solutions, tmp_path):
  quiet = argv(tmp_path, policy, solutions, 'mc_soft', label__evidence=False)
  assert run(quiet) == 0
  assert not (tmp_path / 'rollouts').exists()
  assert results(tmp_path)['counters']['rollouts'] > 0


def test_rows_that_cannot_be_labelled_are_kept_and_counted(policy, tmp_path):
  good = rows()[:3]
  bad = [
    solution(6, 0, ['+1=2', '=3'], True, gold_answer=None, question='6=?'),
    solution(7, 0, ['+1=2', ' '], True),
    {**solution(8, 0, ['+1=2'], True), 'steps': [], 'labels': {}, 'first_error': {},
     'tokens': []},
  ]  # fmt: skip
  file = write_lines(tmp_path / 'mine.jsonl', [bad[0], *good, *bad[1:]])
  assert run(argv(tmp_path / 'work', policy, file, 'mc_soft')) == 0
  found = {t.id: t for t in rows_of(tmp_path / 'work')}
  assert list(found) == ['s-6-0', 's-0-0', 's-0-1', 's-0-2', 's-7-0', 's-8-0']
  reasons = {k: t.meta.get('label_skipped') for k, t in found.items()}
  assert reasons['s-6-0'] == 'no_gold_answer' and reasons['s-7-0'] == 'empty_step'
  assert reasons['s-8-0'] == 'no_steps' and reasons['s-0-0'] is None
  counters = results(tmp_path / 'work')['counters']
  for reason in ('no_gold_answer', 'empty_step', 'no_steps'):
    assert counters[f'skipped/{reason}'] == 1


def test_too_long_for_the_context(policy, tmp_path, capsys):
  long = solution(1, 0, ['1' * 80, '2'], False)
  file = write_lines(tmp_path / 'mine.jsonl', [*rows()[:3], long])
  assert run(argv(tmp_path / 'some', policy, file, 'mc_soft')) == 0
  assert results(tmp_path / 'some')['counters']['skipped/too_long'] == 1
  file = write_lines(tmp_path / 'long.jsonl', [long])
  said = refusal(argv(tmp_path / 'none', policy, file, 'mc_soft'), capsys)
  assert 'no solution could be labelled (1 too_long)' in said


REFUSED = {
  'algorithm': ({'label__algorithm': 'mc_sof'}, "did you mean 'mc_soft'?"),
  'option of another': ({'label__eta': 2.0}, 'label.eta=2.0'),
  'option of the judge': ({'label__algorithm': 'judge', 'label__k': 3}, 'label.k=3'),
  'k=0': ({'label__k': 0}, 'k=0'),
  'max tokens 0': ({'sampling__max_tokens': 0}, 'max_tokens=0'),
  'stop': ({'sampling__stop': '(1,)'}, 'sampling.stop=(1,) must be a tuple with'),
  'shard': ({'shard': '1'}, "shard='1'"),
  'no input': ({'input': ''}, 'input'),
  'no policy': ({'engine__policy': ''}, 'engine.policy'),
  'votes': (
    {'label__algorithm': 'judge', 'judge__votes': 3, 'sampling__temperature': 0},
    'votes=3',
  ),
}  # fmt: skip


@pytest.mark.parametrize('what', REFUSED)
def test_refused_in_one_sentence(what, policy, solutions, tmp_path, capsys):
  options, expected = REFUSED[what]
  given = {'engine__policy': policy, 'input': solutions, **options}
  said = refusal(arguments(tmp_path / 'work', CONFIG, TINY, **given), capsys)
  assert expected in said
  assert not (tmp_path / 'work' / 'labelled').exists()


def test_no_gold_answers_is_refused(policy, tmp_path, capsys):
  file = write_lines(tmp_path / 'mine.jsonl', [record(i) for i in range(3)])
  said = refusal(argv(tmp_path / 'work', policy, file, 'mc_hard'), capsys)
  assert 'no problem has a gold answer' in said and "'mc_hard'" in said


def test_a_solution_that_is_there_twice(policy, tmp_path, capsys):
  first = write_lines(tmp_path / 'a.jsonl', [rows()[0]])
  second = write_lines(tmp_path / 'b.jsonl', [{**rows()[1], 'id': 's-0-0'}])
  given = argv(tmp_path / 'work', policy, f'{first},{second}', 'mc_hard')
  assert 's-0-0 is there twice' in refusal(given, capsys)


def test_questions_of_one_problem_id_are_groups_of_their_own(tmp_path):
  """Two files that both number their problems from 0: each asks its own question. Of
  one question white space may differ."""
  rows = [
    solution(
      i, k, [f'{i}', f'{k}'], False, problem_id='0', question=f'{i}{" " * k}+1=?'
    )
    for k in (1, 2)
    for i in (1, 2)
  ]
  files = [
    write_lines(tmp_path / f'{i}.jsonl', [r for r in rows if r['id'][2] == str(i)])
    for i in (1, 2)
  ]
  config = base.get_config()
  config.input = ','.join(files)
  groups, _ = label.solutions(config, ('mc_soft',), True)
  ids = [[t.id for t in group] for group in groups]
  assert ids == [['s-1-1', 's-1-2'], ['s-2-1', 's-2-2']]


def test_temperature_zero_says_that_continuations_are_identical(
  solutions, tmp_path, capsys
):
  """Before a policy is loaded."""
  for algorithm, said in (('mc_soft', True), ('judge', False), ('free_prm', False)):
    options = {'sampling__temperature': 0}
    run(argv(tmp_path / algorithm, '', solutions, algorithm, **options))
    assert ('of a prefix are identical' in capsys.readouterr().err) == said


def test_unreadable_shards(policy, tmp_path, capsys):
  folder = tmp_path / 'solutions'
  folder.mkdir()
  write_lines(folder / '00000.jsonl.gz', rows()[:3])
  write_lines(folder / '00001.jsonl.gz', rows()[3:6])
  data = (folder / '00001.jsonl.gz').read_bytes()
  (folder / '00001.jsonl.gz').write_bytes(data[:-12])
  said = refusal(argv(tmp_path / 'work', policy, folder, 'mc_hard'), capsys)
  assert '00001.jsonl.gz' in said and 'damaged' in said


def test_unfinished_rollouts_are_refused(policy, tmp_path, capsys):
  write = tmp_path / 'rollout'
  (write / 'solutions').mkdir(parents=True)
  (write / 'chunks').mkdir()
  write_lines(write / 'solutions' / '00000.jsonl.gz', rows()[:3])
  given = argv(tmp_path / 'work', policy, write / 'solutions', 'mc_hard')
  assert 'has not finished' in refusal(given, capsys)
  (write / 'results.json').write_text('{}')
  assert run(given) == 0


def test_input_that_changed_is_refused(policy, tmp_path, capsys):
  file = tmp_path / 'mine.jsonl'
  write_lines(file, rows()[:6])
  assert run(argv(tmp_path / 'work', policy, file, 'mc_hard')) == 0
  write_lines(file, [solution(0, 9, ['+1=2', '+1=3'], False), *rows()[:6]])
  said = refusal(argv(tmp_path / 'work', policy, file, 'mc_hard'), capsys)
  assert 'made from other input' in said


def test_judge_of_a_server(tmp_path, solutions):
  """The judge asks an engine once a solution; here the noise of a tiny policy, which
  gives no verdict: everything is counted, nothing guessed."""
  policy = tiny_policies.export(tmp_path / 'policy', max_length=2048)
  work = tmp_path / 'work'
  given = argv(work, policy, solutions, 'judge', judge__votes=2)
  said = tiny_runs.run(given)
  counters = json.loads((work / 'chunks' / '00000.json').read_text())['counters']
  assert said == 2  # no solution could be labelled
  assert counters['judge_votes_unparsed'] + counters['judge_votes_truncated'] == 12
  answers = rows_of(work, 'rollouts')
  assert len(answers) == 30 and all(not t.steps and t.parent for t in answers)


@pytest.mark.slow
@pytest.mark.parametrize('algorithm', registry.ALGORITHMS)
def test_kill_9(algorithm, policy, tmp_path):
  """A real process, killed after its first chunk, and started again."""
  many = [
    {**row, 'id': f'{row["id"]}-{j}', 'problem_id': f'{row["problem_id"]}-{j}',
     'question': f'{j}{row["question"]}'}
    for j in range(8)
    for row in rows()
  ]  # fmt: skip
  file = write_lines(tmp_path / 'mine.jsonl', many)
  straight, work = tmp_path / 'straight', tmp_path / 'work'
  assert finish(start(argv(straight, policy, file, algorithm)))[0] == 0
  process = start(argv(work, policy, file, algorithm))
  while process.poll() is None:
    if list(work.glob('labelled/0*')):
      process.kill()
      break
  assert finish(process)[0] == -9
  assert finish(start(argv(work, policy, file, algorithm)))[0] == 0
  assert promised(work) == promised(straight)
  shutil.rmtree(work)
