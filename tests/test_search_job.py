"""Searches and banks through the command line, with a tiny policy and scorer."""

import dataclasses
import json
import time
from collections import Counter

import jax
import numpy as np
import pytest
import tiny_policies
from faulty_server import FaultyServer
from ml_collections import ConfigDict
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

from prm_jax import exports, jsonl, records
from prm_jax.evaluation import compute, intervals
from prm_jax.jobs import chunks, search_results, searchers
from prm_jax.models import lm
from prm_jax.models import scorer as scoring_model
from prm_jax.specs import HeadSpec, ScorerSpec, StepFormat

CONFIG = str(ROOT / 'configs' / 'search.py')
BANK = str(ROOT / 'configs' / 'bank.py')
TINY = {
  'rollout.problems': '0:6',
  'sampling.max_tokens': 24,
  'chunk.size': 3,
  'engine.slots': 8,
  'engine.group': 4,
  'parallel.data': 1,
  'evaluate.resamples': 10,
  'evaluate.subsets': 4,
  'search.methods': 'best_of_n n=8; beam n=4 width=2',
  'search.validation': 2,
  'search.caches': False,  # the engine's and scorer's own shapes: few compilations
}
PROMISED = ('searches', 'candidates', 'chunks', 'trees')


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """(policy's workdir, scorer's folder)."""
  folder = tmp_path_factory.mktemp('models')
  spec, _, words = tiny_policies.tiny()
  held = ScorerSpec(
    dataclasses.replace(spec.model, d_ff=16), HeadSpec(), StepFormat(max_length=96),
    step_value='sigmoid', kind='probability',
  )  # fmt: skip
  weights = scoring_model.init(held.model, held.head, jax.random.key(1))
  rng = np.random.default_rng(0)
  noise = lambda w: np.asarray(w + 0.3 * rng.normal(size=w.shape).astype(np.float32))
  exports.save_scorer(folder / 'scorer', held, jax.tree.map(noise, weights), words)
  return tiny_policies.export(folder), folder / 'scorer'


@pytest.fixture(scope='module')
def straight(models, tmp_path_factory):
  work = tmp_path_factory.mktemp('straight')
  assert run(argv(work, models)) == 0
  return work


def argv(workdir, models, **overrides):
  policy, scorer = models
  return arguments(
    workdir, CONFIG, {**TINY, 'engine.policy': policy, 'scorer': scorer}, **overrides
  )


def rows_of(workdir, what='searches'):
  files = sorted((workdir / what).glob('*.jsonl.gz'))
  return [row for f in files for _, row in jsonl.iter_json_lines(f)]


def promised(workdir):
  """What every way of doing the same work must leave, bit for bit."""
  kept = {k: v for k, v in contents(workdir).items() if k.split('/')[0] in PROMISED}
  found = results(workdir)
  return kept, found['metrics'], found['counters'], found['methods']


def test_what_a_search_leaves(straight):
  rows = rows_of(straight)
  assert [r['method'] for r in rows] == ['best_of_n n=8'] * 6 + ['beam n=4 width=2'] * 6
  by_id = {t.id: t for t in records.read(str(straight / 'candidates'))}
  assert len(by_id) == sum(r['candidates'] for r in rows)
  for r in rows:
    assert set(r['right']) == {'chosen', 'vote', 'majority'}
    chosen = by_id[r['chosen']]
    assert (
      chosen.answer == r['answer'] and chosen.verdicts['exact'].value == r['verdict']
    )
    assert r['right']['chosen'] == float(bool(r['verdict']))
    assert chosen.generator.startswith('policy@')
  for t in by_id.values():
    assert len(t.scores['prm'].values) == t.n_steps
    cut_off = t.meta['finish_reason'] == 'length'
    assert not cut_off or (t.answer is None and t.verdicts['exact'].value is None)
  found = results(straight)
  assert found['job'] == 'search' and found['counters']['searches'] == 12
  assert {'tokens/prm_read', 'search/beams', 'search/depths_summed'} <= set(
    found['counters']
  )
  assert found['counters']['problems_compared'] == 6
  assert found['provenance']['covers'] == 'all chunks'
  metrics = found['metrics']
  names = {v['method'] for v in found['methods']}
  assert 'beam(n=4,width=2).vote' in names and 'best_of_n(n=2).best' in names
  assert 'best_of_n(n=8).best' not in names  # dearer than all samples without a PRM
  dear = [w for w in found['warnings'] if w.startswith('Not compared: best_of_n')]
  assert 'N = 8, which' in dear[0] and 'than all 8 samples' in dear[0]
  assert sum(v['chosen'] for v in found['methods']) == 1
  for v in found['methods']:
    assert metrics[f'test/search/{v["method"]}'] == v['right'] and v['right']['n'] == 4
    assert metrics[f'test/search_flops/{v["method"]}']['value'] > 0
  assert metrics['test/search/majority@8']['n'] == 4
  assert 'test/search/oracle@8' in metrics
  page = (straight / 'report.html').read_text()
  assert 'Share solved against compute' in page and 'parameters of the policy' in page
  timing = (straight / 'timing.jsonl').read_text().splitlines()
  for line in map(json.loads, timing):
    until = line['seconds_until_done']
    assert len(until) == line['problems'] and min(until.values()) > 0
    assert max(until.values()) <= line['seconds']


def test_the_headline_is_the_largest_gain_that_is_defined():
  def verdict(name, gain):
    known = intervals.Estimate(gain, None, None, 4)
    n = None if gain is None else 2.0
    return compute.Verdict(
      name, True, known, known, n, known, None, None, known, known, known,
      shown='not shown',
    )  # fmt: skip

  held = search_results.Held([], np.zeros(0, bool), [], {}, {})
  gains = {'a.vote': -0.2, 'b.vote': None, 'c.vote': -0.1}
  said = search_results._headline(held, [verdict(*g) for g in gains.items()])
  assert said[0][0] == 'problems/search/c.vote-majority@equal_flops'
  assert 'c.vote, the largest gain of those compared' in said[0][1]


def test_cost_of_one_problem_by_hand(straight, models):
  """Of whole solutions: the question once and what was written; all of it scored."""
  spec, _, words = exports.load_policy(models[0] / 'policy')
  rows = [r for r in rows_of(straight) if r['method'] == 'best_of_n n=8']
  some = list(records.read(str(straight / 'candidates')))
  w = spec.model
  layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32
  assert compute.parameters(w, lm.HEAD) == layer + w.vocab_size * 16
  prm = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 16
  for r in rows:
    mine = [t for t in some if t.problem_id == r['problem_id']][:8]
    written = sum(t.meta['n_tokens'] for t in mine)
    assert r['counts']['policy_generated'] == written
    # Bytes: question and new line are read once for all samples.
    question = len(words.encode(mine[0].question + '\n'))
    assert r['counts']['policy_read'] == question
    # Question, steps and a marker each, once for every solution.
    read = sum(
      len(words.encode(t.question + '\n'))
      + sum(len(words.encode(s)) + 1 for s in t.steps)
      for t in mine
      if t.steps
    )
    assert r['counts']['prm_read'] == read
    assert sum(t.meta['search']['prm_tokens'] for t in mine) == read
    tokens = written + r['counts']['policy_read']
    expected = 2 * (layer + w.vocab_size * 16) * tokens + 2 * prm * read
    assert r['flops'] == expected


def test_problems_without_a_gold_answer_are_no_failures(straight):
  """They were counted as wrong, half of them halved every share solved."""
  searches = searchers.methods('beam n=4 width=2', 'probability')
  rows = [r for r in rows_of(straight) if r['method'] == searches[0].name]
  ids = [r['problem_id'] for r in rows]
  rows = [{**r, 'gold_answer': None} for r in rows[:4]] + rows[4:]
  config = ConfigDict({'search': {'validation': 0}})
  held = search_results._read(config, None, rows, searches, ids, None, 'last')
  assert held.ids == sorted(ids[4:]) and len(held.methods[0].right) == 2
  assert held.counters['problems_without_gold_answer'] == 4
  rows = [{**r, 'gold_answer': None} for r in rows]
  held = search_results._read(config, None, rows, searches, ids, None, 'last')
  assert held.ids == [] == held.methods


def test_the_best_of_the_bank_goes_by_the_reduction_of_its_method(
  straight, monkeypatch
):
  """Its votes weigh what evaluate.reduction says, as those of all methods do."""
  rows = [r for r in rows_of(straight) if r['method'] == 'best_of_n n=8']
  config = ConfigDict(
    {
      'scorer_name': 'prm', 'data': {'checker': 'exact'},
      'evaluate': {'subsets': 4, 'seed': 0},
    }
  )  # fmt: skip
  main = sorted(map(str, (straight / 'searches').glob('*.gz')))
  done = chunks.Done((0, 1, 2, 3), True, Counter(), 4, tuple(main), (0, 1))

  def scores(how, **options):
    seen = {}
    bank = searchers.Search('best_of_n n=8', 'best_of_n', options, None, 8)
    with monkeypatch.context() as patch:
      keep = lambda pool, scores, weights, *_, **__: seen.update(s=scores, w=weights)
      patch.setattr(search_results.curves, 'bank_lines', keep)
      search_results._lines(
        config, done, bank, [r['problem_id'] for r in rows], rows, None, how
      )
    return seen['s'], seen['w']

  last, weights = scores('last')
  least, same = scores('last', reduction='min')
  expected, _ = scores('min')
  np.testing.assert_array_equal(least, expected)
  np.testing.assert_array_equal(same, weights)
  assert (last != least).any()


@pytest.mark.parametrize('call', [1, 4])
def test_dying_between_chunks(call, straight, models, tmp_path, monkeypatch):
  write = chunks._Books.write
  calls = [0]

  def dies(self, number, made):
    calls[0] += 1
    if calls[0] == call:
      raise Killed
    write(self, number, made)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(chunks._Books, 'write', dies)
    run(argv(tmp_path, models))
  assert not (tmp_path / 'results.json').exists()
  assert run(argv(tmp_path, models)) == 0
  assert promised(tmp_path) == promised(straight)


def test_shards_are_the_whole(straight, models, tmp_path, capsys):
  for i in (1, 0):
    assert run(argv(tmp_path, models, shard=f'{i}/2')) == 0
  assert promised(tmp_path) == promised(straight)
  assert run(argv(tmp_path, models)) == 0
  assert 'complete' in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_resumed(models, tmp_path):
  """With caches, in a process that is really killed: the same bytes."""
  options = {'search__caches': True, 'search__tree': True, 'chunk__size': 1}
  assert finish(start(argv(tmp_path / 'whole', models, **options)))[0] == 0
  work = tmp_path / 'killed'
  process = start(argv(work, models, **options))
  end = time.monotonic() + 300
  while len(list((work / 'searches').glob('*.gz'))) < 5:
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.01)
  process.kill()
  process.communicate()
  assert not (work / 'results.json').exists()
  assert finish(start(argv(work, models, **options)))[0] == 0
  assert promised(work) == promised(tmp_path / 'whole')
  assert rows_of(work, 'trees')


def test_without_a_scorer_votes_decide(models, tmp_path, capsys):
  work = tmp_path / 'work'
  options = {'search__methods': 'best_of_n n=4', 'scorer': ''}
  assert run(argv(work, models, **options)) == 0
  said = capsys.readouterr().err
  assert 'no scorer' in said and said.endswith(f'{work}: results.json, report.html\n')
  rows = rows_of(work)
  assert all(set(r['right']) == {'chosen', 'majority'} for r in rows)
  assert all(r['counts'].get('prm_read', 0) == 0 for r in rows)
  assert results(work)['metrics']['test/search/majority@4']['n'] == 4


@pytest.mark.parametrize('parameters', [0, 1000])
def test_a_server_as_policy(parameters, models, tmp_path):
  """Tokens are counted; there are FLOPs where the policy's size is given."""
  with FaultyServer() as server:
    options = {
      'engine__kind': 'remote', 'engine__url': server.url, 'engine__model': 'm',
      'search__policy_parameters': parameters, 'rollout__problems': '0:3',
      'search__validation': 0,
      'search__methods': 'best_of_n n=4; greedy width=2; best_of_n n=2',
    }  # fmt: skip
    assert run(argv(tmp_path, models, **options)) == 0
  rows = rows_of(tmp_path)
  assert all(r['counts']['policy_generated'] > 0 for r in rows)
  assert all((r['flops'] is None) == (not parameters) for r in rows)
  found = results(tmp_path)
  names = [v['method'] for v in found['methods']]
  assert len(set(names)) == len(names)
  # Of the smaller best_of_n the bank's line tells the vote, not its own choice.
  assert found['counters']['methods_on_lines_of_the_bank'] == 1
  assert 'best_of_n(n=2).chosen' in names
  assert ('best_of_n(n=2).vote' in names) == (not parameters)  # dear ones are not
  shown = {v['shown'] for v in found['methods']}
  assert ('no FLOPs' in shown) == (not parameters)
  assert ('problems/search_flops/greedy(width=2).chosen' in found['metrics']) == bool(
    parameters
  )


def test_a_bank_of_what_a_search_found(straight, tmp_path, capsys):
  """Candidates with scores are a bank; N beyond it is refused in one sentence."""
  rows = [
    records.to_dict(t)
    for t in records.read(str(straight / 'candidates'))
    if t.meta['search']['algorithm'] == 'best_of_n n=8'
  ]
  for i, row in enumerate(rows):
    row['meta']['self_certainty'] = i % 5 + 0.5
  for row in rows[:3]:
    del row['scores']
  file = write_lines(tmp_path / 'bank.jsonl', rows)
  tiny = {
    'data.pools': f'mine={file}', 'score_files': '', 'data.checker': 'exact',
    'evaluate.resamples': 10, 'evaluate.subsets': 4, 'evaluate.reduction': 'last',
  }  # fmt: skip
  work = tmp_path / 'work'
  assert run(arguments(work, BANK, tiny)) == 0
  found = results(work)
  lines = [json.loads(x) for x in (work / 'curves.jsonl').read_text().splitlines()]
  names = {r['name'] for r in lines}
  blind = {'oracle', 'pass', 'majority', 'borda'}
  assert names == blind | {'best', 'vote', 'wrf', 'hmr', 'ias'}
  assert {r['best_of'] for r in lines if r['name'] == 'wrf'} == set(range(1, 9))
  assert 'mine/bank/vote_last-majority@8[prm]' in found['metrics']
  assert 'mine/bank/borda-majority@8' in found['metrics']
  assert found['counters']['mine/unscored[prm]'] == 3
  assert found['counters']['mine/read/trajectories'] == len(rows)
  assert 'recomputed from saved scores' in found['provenance']['how']
  assert 'Recomputed from saved scores' in (work / 'report.html').read_text()
  assert not any(': no ' in text for text in found['warnings'])
  said = refusal(arguments(tmp_path / 'more', BANK, tiny, bank__most=9), capsys)
  assert 'best of 9 is not defined' in said and 'from 1 to 8' in said
  bare = write_lines(
    tmp_path / 'bare.jsonl',
    [{k: v for k, v in r.items() if k != 'scores'} for r in rows],
  )
  argv = arguments(tmp_path / 'bare', BANK, {**tiny, 'data.pools': f'mine={bare}'})
  assert 'no candidate carries scores' in refusal(argv, capsys)


def test_what_a_bank_leaves_out_is_said(straight, tmp_path):
  """Rules and reductions that are asked for, and are not defined of these."""
  rows = [
    records.to_dict(t)
    for t in records.read(str(straight / 'candidates'))
    if t.meta['search']['algorithm'] == 'best_of_n n=8'
  ]
  for row in rows:
    for held in row['scores'].values():
      held['kind'] = 'logit'
  rows[0]['meta']['self_certainty'] = 0.5
  tiny = {
    'score_files': '', 'data.checker': 'exact', 'evaluate.resamples': 10,
    'evaluate.subsets': 4, 'bank.rules': '("best", "ias")', 'report': False,
    'bank.reductions': '("product", "min")',
  }  # fmt: skip
  said = {}
  for name, part in (('even', rows), ('uneven', rows[1:])):
    file = write_lines(tmp_path / f'{name}.jsonl', part)
    given = {**tiny, 'data.pools': f'mine={file}'}
    assert run(arguments(tmp_path / name, BANK, given)) == 0
    said[name] = results(tmp_path / name)['warnings'][:-1]
  product = 'mine: no product of step scores of prm (logit): it is defined for '
  assert said == {
    'even': [
      'mine: no adaptive N of prm (logit): it is defined for probabilities.',
      f'{product}probabilities.',
      'mine: no Borda votes: 47 candidates carry no self_certainty.',
    ],
    'uneven': [
      'mine: no adaptive N: its problems have 7 to 8 candidates, and it needs as many '
      'for each.',
      f'{product}probabilities.',
    ],
  }


REFUSED = {
  'unknown algorithm': ({'search__methods': 'bream n=4'}, 'bream'),
  'unknown option': ({'search__methods': 'beam m=4'}, "no option 'm'"),
  'no option': ({'search__methods': 'beam n'}, 'OPTION=VALUE'),
  'a word for a number': ({'search__methods': 'beam n=four'}, "n='four'"),
  'a float for a number': (
    {'search__methods': 'best_of_n n=1e1'},
    'n=10.0 must be a whole number',
  ),
  'twice': ({'search__methods': 'pats; pats'}, 'each once'),
  'none': ({'search__methods': ' ; '}, 'at least one'),
  'validation': ({'search__validation': 6}, 'search.validation=6'),
  'step tokens': ({'search__step_tokens': 0}, 'search.step_tokens=0'),
  'stop strings': ({'sampling__stop': '("x",)'}, 'sampling.stop'),
  'no scorer for beam': ({'scorer': ''}, 'chooses by step scores'),
  'no tokens to cut at': (
    {
      'engine__kind': 'remote',
      'engine__url': 'http://127.0.0.1:9/v1',
      'engine__model': 'm',
      'search__methods': 'best_of_n n=4; adaptive_step',
    },
    'adaptive_step cuts solutions at single tokens',
  ),
  'no problems': ({'input': ''}, 'search needs --config.input'),
  'reduction': ({'evaluate__reduction': 'best'}, 'best'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_refused(name, models, tmp_path, capsys):
  options, word = REFUSED[name]
  assert word in refusal(argv(tmp_path / 'work', models, **options), capsys)


def test_every_problem_refused(models, tmp_path, capsys):
  rows = [record(i, question='1' * (90 + i)) for i in (0, 1)]
  file = write_lines(tmp_path / 'long.jsonl', rows)
  options = {'input': file, 'rollout__problems': '', 'search__validation': 0}
  said = refusal(argv(tmp_path / 'work', models, **options), capsys)
  assert 'no problem could be asked (too_long)' in said


def test_values_of_options():
  (made,) = searchers.methods('pats  widths=(1,2,3) high=0.9', 'probability')
  assert made.options == {'widths': (1, 2, 3), 'high': 0.9} and made.n == 0
  assert made.name == 'pats widths=(1,2,3) high=0.9'
  (bank,) = searchers.methods('best_of_n n=5', None)
  assert bank.n == 5
