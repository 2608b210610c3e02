"""Between asks and an engine: requests, steps, answers, records of rollouts."""

import dataclasses
from collections import Counter

import pytest
from often import often

from prm_jax.formats.answer_checker import Checker
from prm_jax.formats.splitting import Splitter
from prm_jax.inference.requests import Completion, Refusal, Sampling
from prm_jax.labeling import driver
from prm_jax.labeling.completer import Completer
from prm_jax.labeling.protocol import Ask
from prm_jax.labeling.registry import ALGORITHMS
from prm_jax.records import Trajectory, Verdict, from_dict, to_dict

SPLITTER = Splitter('separator', '\n')
PROBLEM = Trajectory(
  id='s', problem_id='p', question='2 + 2 = ?', steps=('first', 'second', 'A: 5'),
  gold_answer='4', verdicts={'exact': Verdict(False)}, source='made',
)  # fmt: skip


class Scripted:
  """An engine that writes given texts in turn, by sample index."""

  name, separator, deterministic = 'scripted', '\n', True

  def __init__(self, texts):
    self.texts = texts
    self.counters = Counter()
    self.calls = []

  def complete(self, requests, sampling):
    self.calls.append(list(requests))
    return [
      Refusal('too_long')
      if r.n_steps == 2
      else [self._one(i) for i in range(r.first_sample, r.first_sample + r.n)]
      for r in requests
    ]

  def _one(self, index):
    text, reason = self.texts[index % len(self.texts)]
    n = len(text)
    return Completion(text, tuple(text.encode()), (-0.5,) * n, (), reason, index, n)


@pytest.fixture
def checker():
  with Checker(policies=('a_line', 'last_number'), symbolic=False) as held:
    yield held


def completer(texts, checker, **options):
  engine = Scripted(texts)
  sampling = Sampling(stop=('\n\n',))
  return Completer(engine, sampling, SPLITTER, checker, **options), engine


def test_ask(checker):
  texts = [('x\ny\nA: 4', 'end'), ('A: 5', 'stop'), ('A: 4', 'length'), ('', 'end')]
  asked, engine = completer(texts, checker)
  asks = [Ask.of(PROBLEM, 1, 4), Ask.of(PROBLEM, 2, 1), Ask.of(PROBLEM, 0, 1, 4)]
  answers = asked.ask([PROBLEM] * 3, asks)
  (requests,) = engine.calls
  assert [(r.id, r.n_steps, r.n, r.first_sample) for r in requests] == [
    ('p/s/1', 1, 4, 0),
    ('p/s/2', 2, 1, 0),
    ('p/s/0', 0, 1, 4),
  ]
  right, wrong, cut, empty = answers[0]
  assert right.steps == ('x', 'y', 'A: 4')
  assert (right.correct, right.answer, right.n_tokens) == (True, '4', 8)
  assert right.logprob == -4.0
  assert wrong.correct is False
  assert (cut.correct, cut.answer) == (None, None)
  assert (empty.steps, empty.correct) == ((), None)
  assert answers[1] == Refusal('too_long')
  assert asked.counters == {
    'asks': 3, 'rollouts': 5, 'tokens': 24, 'cut_off': 1, 'unjudged': 1, 'right': 2,
    'wrong': 1, 'refused/too_long': 1,
  }  # fmt: skip


def test_records_of_rollouts(checker):
  asked, _ = completer([('x\nA: 4', 'end')], checker)
  (answers,) = asked.ask([PROBLEM], [Ask.of(PROBLEM, 1, 2)])
  one, two = asked.take_rollouts()
  assert one.id != two.id
  assert one.steps == ('first', 'x', 'A: 4')
  assert one.response == 'first\nx\nA: 4'
  assert [one.response[a:b] for a, b in one.step_spans] == list(one.steps)
  assert one.parent == {'id': 's', 'n_steps': 1}
  assert one.verdicts['exact'].value is True
  assert (one.generator, one.sample_index, two.sample_index) == ('scripted', 0, 1)
  assert one.sampling['stop'] == ['\n\n']
  assert from_dict(to_dict(one)) == one
  assert asked.take_rollouts() == []
  # A sampled continuation may be asked about in turn.
  again = Ask(answers[0].id, one.steps, 1, 1)
  asked.ask([PROBLEM], [again])
  assert asked.take_rollouts()[0].parent == {'id': one.id, 'n_steps': 1}


def test_the_same_sample_is_kept_once(checker):
  asked, _ = completer([('A: 4', 'end')], checker)
  asked.ask([PROBLEM] * 2, [Ask.of(PROBLEM, 1, 2), Ask.of(PROBLEM, 1, 2)])
  assert len(asked.take_rollouts()) == 2
  asked, _ = completer([('A: 4', 'end')], checker, keep=False)
  asked.ask([PROBLEM], [Ask.of(PROBLEM, 1, 2)])
  assert asked.take_rollouts() == []
  assert asked.counters['rollouts'] == 2


def test_without_a_gold_answer_nothing_is_judged(checker):
  asked, _ = completer([('A: 4', 'end')], checker)
  problem = dataclasses.replace(PROBLEM, gold_answer=None)
  (answers,) = asked.ask([problem], [Ask.of(problem, 1, 1)])
  assert answers[0].correct is None
  (record,) = asked.take_rollouts()
  assert record.verdicts['exact'].reason == 'no gold answer'


def test_tokens_of_steps(checker):
  engine = Scripted([('ab cd', 'end')])
  splitter = Splitter('low_confidence', threshold=0.7)
  decode = lambda ids: bytes(ids).decode()
  asked = Completer(engine, Sampling(), splitter, checker, decode=decode)
  (answers,) = asked.ask([PROBLEM], [Ask.of(PROBLEM, 1, 1)])
  assert ''.join(answers[0].steps) == 'ab cd'
  assert len(answers[0].steps) > 1
  assert sum(answers[0].step_tokens) == 5
  assert len(answers[0].step_tokens) == len(answers[0].steps)


def test_refusal_and_how_through_the_driver(checker):
  asked, _ = completer([('A: 4', 'end')], checker, checks={'policies': ['a_line']})
  entry = ALGORITHMS['binary_search']
  short = dataclasses.replace(PROBLEM, id='t', steps=('one', 'A: 5'))
  result = driver.run([[PROBLEM, short]], entry.make(entry.options()), asked)
  first, second = result.groups[0].labelled
  assert second.first_error == {'binary_search': 1}
  held = second.labels['binary_search']
  assert held.how['completer'] == 'scripted'
  assert held.how['sampling']['seed'] == 0
  assert held.how['checker'] == {'name': 'exact', 'policies': ['a_line']}
  assert second.meta['label_cost']['binary_search'] == {
    'rollouts': 1, 'tokens': 4, 'unjudged': 0,
  }  # fmt: skip
  assert first.skipped == 'too_long'


@pytest.mark.parametrize('name', often(['mc_soft', 'adaptive'], 'adaptive'))
def test_on_the_engine_in_this_process(name, checker):
  import tiny_policies

  from prm_jax.inference.engine import JaxEngine

  spec, params, words = tiny_policies.tiny(max_length=48)
  engine = JaxEngine(spec, params, words, slots=16, group=4)
  groups = [
    [
      Trajectory(
        id=f'{p}.{i}', problem_id=f'p{p}', question=f'{p}+{p}=?', gold_answer='2',
        steps=tuple(f'{p}+{j}=2' for j in range(2 + i)),
        verdicts={'exact': Verdict(False)},
      )
      for i in range(2)
    ]
    for p in range(3)
  ]  # fmt: skip
  groups[2][0] = dataclasses.replace(groups[2][0], steps=('1' * 60, '2'))

  def label(some):
    asked = Completer(engine, Sampling(max_tokens=8), SPLITTER, checker)
    options = {'k': 4} if name == 'mc_soft' else {'cap': 16}
    entry = ALGORITHMS[name]
    return driver.run(some, entry.make(entry.options(**options)), asked)

  together = label(groups)
  assert together.counters['rollouts'] == len(together.rollouts) > 0
  assert together.counters['right'] + together.counters['wrong'] > 0
  assert together.groups[2].labelled[0].skipped == 'too_long'
  assert together.counters['refused/too_long'] == 1
  alone = label(groups[1:2])
  assert alone.groups[0] == together.groups[1]
  assert alone.rollouts == [t for t in together.rollouts if t.problem_id == 'p1']
