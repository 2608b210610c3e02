"""PRM800K: alternatives become trajectories, a rated step weighs once."""

import pytest
from importing import read, refusal

from prm_jax.formats.label_policy import NEUTRAL


def one(step, rating, **more):
  return {'text': step, 'rating': rating, **more}


def native(*positions, problem='Q?', **more):
  steps = [
    {'completions': completions, 'chosen_completion': chosen, 'human_completion': human}
    for completions, chosen, human in positions
  ]
  question = {'problem': problem, 'ground_truth_answer': '5'}
  return {'question': question, 'label': {'steps': steps, **more}}


def rated(prefix, step, rating, preferred=False, **more):
  return {
    'instruction': 'Q?',
    'responses': list(prefix),
    'next_response': step,
    'rating': rating,
    'is_preferred_response': preferred,
    **more,
  }


def weights(t):
  return t.labels['human'].weights or (1.0,) * t.n_steps


SOLUTION = native(
  ([one('a', 1), one('x', -1)], 0, None),
  ([one('b', -1), one('c', 0)], None, {'text': 'h', 'rating': None}),
  ([one('d\n# Answer\n\n5', 1)], 0, None),
  finish_reason='solution',
)


def test_native_alternatives_are_trajectories_of_their_own(tmp_path):
  found, counters = read(tmp_path, 'prm800k_native', [SOLUTION])
  by_steps = {t.steps: t for t in found}
  main = ('a', 'h', 'd\n# Answer\n\n5')
  assert set(by_steps) == {main, ('a', 'b'), ('a', 'c'), ('x',)}
  assert found[0].steps == main
  t = by_steps[main]
  assert t.ratings == (1, None, 1)
  assert t.labels['human'].values == (1.0, None, 1.0)
  assert (t.answer, t.gold_answer) == ('5', '5')
  assert t.meta == {'finish_reason': 'solution', 'human_steps': [1]}
  b = by_steps['a', 'b']
  assert b.labels['human'].values == (1.0, 0.0) and b.first_error == {'human': 1}
  assert weights(b) == (0.0, 1.0) and b.meta == {'alternative': True}
  assert weights(by_steps['x',]) == (1.0,)
  assert counters['ratings'] == 5 and counters['null_ratings'] == 1
  assert counters['rated_steps'] == counters['weighted_labels'] == 5
  assert counters['context_labels'] == 2
  assert counters['both_classes'] == 1 and counters['labelled_trajectories'] == 4


@pytest.mark.parametrize('neutral', NEUTRAL)
def test_neutral_ratings_by_policy(tmp_path, neutral):
  found, _ = read(tmp_path, 'prm800k_native', [SOLUTION], neutral=neutral)
  value = {'positive': 1.0, 'negative': 0.0, 'unlabeled': None, 'class': 0.5}[neutral]
  held = [t for t in found if t.steps == ('a', 'c')]
  # Unlabelled, it has nothing of its own to say beyond its prefix, and is left out.
  assert [t.labels['human'].values for t in held] == (
    [] if value is None else [(1.0, value)]
  )
  assert all(t.ratings == (1, 0) for t in held)
  assert all(t.labels['human'].how['neutral'] == neutral for t in found)


def test_positions_after_one_that_nobody_followed_are_counted(tmp_path):
  row = native(([one('a', -1)], None, None), ([one('b', 1)], 0, None))
  found, counters = read(tmp_path, 'prm800k_native', [row])
  assert [t.steps for t in found] == [('a',)]
  assert counters['positions_without_prefix'] == 1


def test_steps_and_native_layout_agree(tmp_path):
  rows = [
    rated([], 'a', 1, True),
    rated([], 'x', -1, error_reason='wrong sign'),
    rated(['a'], 'b', -1),
    rated(['a'], 'c', 0),
    rated(['a'], 'h', None, True, is_human_response=True),
    rated(['a', 'h'], 'd\n# Answer\n\n5', 1, True, answer='5'),
  ]
  found, counters = read(tmp_path, 'prm800k_steps', rows)
  expected, _ = read(tmp_path, 'prm800k_native', [SOLUTION])
  assert [t.steps for t in found] == [t.steps for t in expected]
  assert [t.labels for t in found] == [t.labels for t in expected]
  assert [t.first_error for t in found] == [t.first_error for t in expected]
  assert found[0].answer == '5'
  (x,) = [t for t in found if t.steps == ('x',)]
  assert x.meta == {'alternative': True, 'error_reason': 'wrong sign'}
  assert counters['ratings'] == 5 and counters['null_ratings'] == 1


def test_conflicting_ratings_are_voted_counted_and_kept(tmp_path):
  rows = [rated([], 'a', r, True) for r in (1, 1, -1)] + [rated([], 'b', 0)] * 2
  rows += [rated([], 'c', 1), rated([], 'c', -1)]
  found, counters = read(tmp_path, 'prm800k_steps', rows)
  assert {t.steps: t.ratings for t in found} == {
    ('a',): (1,),
    ('b',): (0,),
    ('c',): (-1,),
  }
  assert found[0].meta['rating_votes'] == {'0': [1, 1, -1]}
  assert counters['conflicting_ratings'] == 2
  assert counters['repeated_ratings'] == 4
  assert counters['weighted_labels'] == 3


def test_a_path_without_a_rating_of_its_own_is_dropped_and_counted(tmp_path):
  rows = [rated([], 'a', 1, True), rated(['a'], 'b', None), rated(['a'], 'c', 1, True)]
  found, counters = read(tmp_path, 'prm800k_steps', rows)
  assert [t.steps for t in found] == [('a', 'c')]
  assert counters['dropped_without_own_rating'] == 1
  assert counters['context_labels'] == 0


def test_labels_count_once_however_long_the_shared_prefix(tmp_path):
  prefix, rows = [], []
  for i in range(20):
    rows += [rated(prefix, f'alternative {i}.{j}', -1) for j in range(3)]
    rows.append(rated(prefix, f'step {i}', 1, True))
    prefix = [*prefix, f'step {i}']
  found, counters = read(tmp_path, 'prm800k_steps', rows)
  assert len(found) == 61
  assert sum(sum(weights(t)) for t in found) == len(rows) == 80
  assert counters['labels'] == 20 + 3 * sum(i + 1 for i in range(20))
  assert counters['both_classes'] == 57  # all alternatives but those of step 0


def test_whole_trajectories(tmp_path):
  rows = [
    {'problem': 'Q?', 'steps': ['a', 'b\n# Answer\n\n5'], 'ratings': [1, 0], 'k': 1},
    {'problem': 'Q?', 'steps': ['a', 'c'], 'ratings': [1.0, -1.0]},
    {'problem': 'Q?', 'steps': ['a'], 'ratings': [None]},
  ]
  found, counters = read(tmp_path, 'prm800k_trajectories', rows)
  assert [t.ratings for t in found] == [(1, 0), (1, -1), (None,)]
  assert [t.answer for t in found] == ['5', None, None]
  assert weights(found[1]) == (0.0, 1.0)
  assert found[0].meta == {'k': 1}
  assert counters['ratings'] == 4 and counters['weighted_labels'] == 3
  assert found[2].first_error == {'human': None}


MALFORMED = [
  (
    'prm800k_steps',
    rated([], 'a', 2),
    "field 'rating' is 2; it must be -1, 0, 1 or null.",
  ),
  (
    'prm800k_steps',
    rated([], 'a', True),
    "field 'rating' is True; it must be -1, 0, 1 or null.",
  ),
  (
    'prm800k_steps',
    rated(['a', 1], 'a', 1),
    "field 'responses[1]' is 1; it must be a string.",
  ),
  (
    'prm800k_trajectories',
    {'problem': 'Q?', 'steps': ['a'], 'ratings': [1, 1]},
    "field 'ratings' has 2 ratings for 1 steps; there must be one a step.",
  ),
  (
    'prm800k_trajectories',
    {'problem': 'Q?', 'steps': ['a'], 'ratings': ['+']},
    "field 'ratings[0]' is '+'; it must be -1, 0, 1 or null.",
  ),
  (
    'prm800k_native',
    native(([one('a', 0.5)], 0, None)),
    "field 'label.steps[0].completions[0].rating' is 0.5; it must be -1, 0, 1 or null.",
  ),
  (
    'prm800k_native',
    native(([one('a', 1)], 1, None)),
    "field 'label.steps[0].chosen_completion' is 1; it must be a whole number of at "
    'least 0 and at most 0.',
  ),
  (
    'prm800k_native',
    native(([one(None, 1)], 0, None)),
    "field 'label.steps[0].completions[0].text' is None; it must be a string.",
  ),
  (
    'prm800k_native',
    {'question': 'Q?', 'label': {}},
    "field 'question' is 'Q?'; it must be an object {...}.",
  ),
]


@pytest.mark.parametrize(
  ('format', 'row', 'message'), MALFORMED, ids=range(len(MALFORMED))
)
def test_malformed_rows(tmp_path, format, row, message):
  assert refusal(tmp_path, format, row) == message
