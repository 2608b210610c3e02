"""Label policies: neutral ratings, steps after the first error, weight once."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.formats import label_policy
from prm_jax.formats.label_policy import ImportOptions
from prm_jax.records import LabelSet, Trajectory


def trajectory(steps, values=None, weights=(), id='t', problem='p'):
  labels = {}
  if values is not None:
    labels = {'human': LabelSet('correctness', tuple(values), weights=tuple(weights))}
  return Trajectory(id, problem, 'q', tuple(steps), labels=labels)


@pytest.mark.parametrize(
  ('neutral', 'expected'),
  [
    ('positive', (1.0, 1.0, 0.0, None)),
    ('negative', (1.0, 0.0, 0.0, None)),
    ('unlabeled', (1.0, None, 0.0, None)),
    ('class', (1.0, 0.5, 0.0, None)),
  ],
)
def test_neutral_policies(neutral, expected):
  assert label_policy.rating_values([1, 0, -1, None], neutral) == expected


@pytest.mark.parametrize(
  ('policy', 'expected'),
  [
    ('keep', (1.0, 0.0, 1.0, None)),
    ('mask', (1.0, 0.0, None, None)),
    ('zero', (1.0, 0.0, 0.0, 0.0)),
  ],
)
def test_policies_after_the_first_error(policy, expected):
  labels = LabelSet('correctness', (1.0, 0.0, 1.0, None), weights=(0.0, 1.0, 0.0, 1.0))
  out = label_policy.after_first_error(labels, policy)
  assert out.values == expected
  assert out.weights == labels.weights


def test_without_an_error_policies_change_nothing():
  labels = LabelSet('correctness', (1.0, 0.5, None))
  for policy in label_policy.AFTER_FIRST_ERROR:
    assert label_policy.after_first_error(labels, policy) == labels


def test_the_first_error_is_that_of_the_source_and_the_policy_is_noted():
  t = label_policy.label(
    trajectory(['a', 'b', 'c']),
    'human',
    LabelSet('correctness', (1.0, 0.0, 1.0), {'by': 'human'}),
    ImportOptions(after_first_error='mask'),
  )
  assert t.first_error == {'human': 1}
  assert t.labels['human'].how == {'by': 'human', 'after_first_error': 'mask'}
  assert t.labels['human'].values == (1.0, 0.0, None)


@pytest.mark.parametrize(
  ('first', 'expected'),
  [
    (-1, (1.0, 1.0, 1.0)),
    (0, (0.0, None, None)),
    (2, (1.0, 1.0, 0.0)),
    (None, (None, None, None)),
  ],
)
def test_a_first_error_says_no_more_than_it_says(first, expected):
  assert label_policy.first_error_values(3, first) == expected


def test_shared_steps_weigh_once_and_stay_as_context():
  rows = [
    trajectory('abc', [1, 1, 1], id='1'),
    trajectory('abd', [1, 1, 0], id='2'),
    trajectory('xb', [1, 1], id='3'),
    trajectory('abc', [1, 0, 1], id='4', problem='other'),
    trajectory('zz', None, id='5'),
  ]
  out, counters = label_policy.weigh_once(rows, 'human')
  weights = [t.labels['human'].weights for t in out[:4]]
  assert weights == [(), (0.0, 0.0, 1.0), (), ()]
  assert [t.labels['human'].values for t in out[:4]] == [
    t.labels['human'].values for t in rows[:4]
  ]
  assert out[4] == rows[4]
  assert counters == {
    'distinct_labels': 9,
    'context_labels': 2,
    'conflicting_labels': 0,
  }


def test_conflicts_are_counted_and_the_first_label_carries_the_weight():
  rows = [trajectory('ab', [1, 1], id='1'), trajectory('ab', [1, 0], id='2')]
  out, counters = label_policy.weigh_once(rows, 'human')
  assert counters['conflicting_labels'] == 1
  assert out[0].labels['human'].weights == ()
  assert out[1].labels['human'].weights == (0.0, 0.0)


def test_an_unlabelled_step_does_not_take_the_weight():
  rows = [trajectory('ab', [None, 1], id='1'), trajectory('a', [0], id='2')]
  out, counters = label_policy.weigh_once(rows, 'human')
  assert out[1].labels['human'].weights == ()
  assert counters['distinct_labels'] == 2


labelled = st.lists(
  st.tuples(
    st.sampled_from('pq'),
    st.lists(st.tuples(st.sampled_from('ab'), st.sampled_from([0.0, 1.0, None]))),
  ),
  max_size=8,
)


@given(labelled)
def test_weights_sum_to_the_distinct_labels(drawn):
  rows = [
    trajectory([s for s, _ in pairs], [v for _, v in pairs], id=str(i), problem=p)
    for i, (p, pairs) in enumerate(drawn)
  ]
  distinct = {
    (t.problem_id, t.steps[: i + 1])
    for t in rows
    for i, v in enumerate(t.labels['human'].values)
    if v is not None
  }
  out, counters = label_policy.weigh_once(rows, 'human')
  assert counters['distinct_labels'] == len(distinct)
  counts = label_policy.class_counts(out, 'human')
  assert counts['weighted_labels'] == len(distinct)
  assert counts['context_labels'] == counters['context_labels']
  again, repeated = label_policy.weigh_once(out, 'human')
  assert again == out
  assert repeated['distinct_labels'] == len(distinct)


def test_class_counts():
  rows = [
    trajectory('abc', [1, 0, 0.5], (1.0, 0.0, 1.0), id='1'),
    trajectory('ab', [1, None], id='2'),
    trajectory('ab', [None, None], id='3'),
    trajectory('ab', None, id='4'),
  ]
  assert label_policy.class_counts(rows, 'human') == {
    'labelled_trajectories': 2,
    'both_classes': 1,
    'labels': 4,
    'positive_labels': 2,
    'negative_labels': 1,
    'middle_labels': 1,
    'weighted_labels': 3,
    'context_labels': 1,
  }


def test_unknown_options_are_refused():
  with pytest.raises(UserError) as e:
    ImportOptions(neutral='maybe')
  assert str(e.value) == (
    "import option neutral is 'maybe'; choose one of 'positive', 'negative', "
    "'unlabeled', 'class'."
  )
  for name in ('after_first_error', 'label_kind', 'ambiguous', 'bad_index'):
    with pytest.raises(UserError, match=f"import option {name} is 'maybe'"):
      dataclasses.replace(ImportOptions(), **{name: 'maybe'})
  with pytest.raises(UserError, match='placeholder is empty'):
    ImportOptions(placeholder='')
