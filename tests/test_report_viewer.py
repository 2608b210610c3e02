"""Two scorers side by side, trees, records as samples, the widget of notebooks."""

import dataclasses

import pytest
import report_example
import view_example
from test_report import HOSTILE, embedded, read

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.evaluation import report
from prm_jax.evaluation.report import solutions


def record(k=0, scores=None, **fields):
  return records.Trajectory(
    f't{k}', 'p', 'q', ('a', 'b'),
    scores={n: records.ScoreSet(*s) for n, s in (scores or {}).items()},
    labels={'human': records.LabelSet('correctness', (1.0, 0.0))},
    first_error={'human': 1}, **fields,
  )  # fmt: skip


BOTH = {'x': ('probability', (0.9, 0.4)), 'y': ('logit', (-1.0, 2.0))}


@pytest.mark.parametrize(
  ('gold', 'a', 'b', 'kind'),
  [(2, 2, 2, 'both_right'), (2, 2, 1, 'only_a'), (-1, 0, -1, 'only_b'),
   (2, 1, 1, 'same_wrong'), (2, 1, 3, 'both_wrong'), (None, 1, 1, 'same'),
   (None, 1, 2, 'differ'), (2, None, 2, 'undecided'), (2, 2, None, 'undecided')],
)  # fmt: skip
def test_disagreement_kinds(gold, a, b, kind):
  assert report.disagreement_kind(gold, a, b) == kind
  assert kind in report.DISAGREEMENTS


def test_records_become_pairs():
  (one,), dropped = report.of_records([record(scores=BOTH)], split='s')
  assert dropped == 0 and (one.scorer, one.rival.scorer) == ('x', 'y')
  assert (one.threshold, one.rival.threshold) == (0.5, 0.0)
  assert (one.predicted_first_error, one.rival.predicted_first_error) == (1, 0)
  assert (one.gold_first_error, one.truth) == (1, (1.0, 0.0))
  assert one.disagreement == 'only_a'
  (one,), _ = report.of_records([record(scores=BOTH)], scorers=['y@-2', 'human'])
  assert (one.threshold, one.predicted_first_error) == (-2.0, -1)
  assert one.rival.scores == (1.0, 0.0) and one.gold_first_error is None


def test_records_without_scores_are_shown_and_with_some_are_counted():
  (one,), dropped = report.of_records([record()])
  assert one.scores == (None, None) and one.failure == 'unknown' and dropped == 0
  rows = [record(scores=BOTH), record(1, {'x': BOTH['x']}), record(2)]
  kept, dropped = report.of_records(rows, scorers=['x', 'y'])
  assert [s.id for s in kept] == ['t0'] and dropped == 2
  with pytest.raises(UserError, match="no row has scores or labels 'z'; there are x"):
    report.of_records(rows, scorers=['z'])
  with pytest.raises(UserError, match="'x@high': 'high' is no number"):
    report.of_records(rows, scorers=['x@high'])
  three = record(scores={**BOTH, 'z': BOTH['x']})
  with pytest.raises(UserError, match='not x, y, z; choose with'):
    report.of_records([three])


def test_saved_rows_keep_what_the_run_said():
  said = {
    'truth': 'human', 'threshold': 0.95, 'gold_first_error': 1,
    'predicted_first_error': 0, 'scores': [0.9, 0.4],
  }  # fmt: skip
  row = {**records.to_dict(record(scores=BOTH)), 'evaluation': said}
  made = report.saved(row, 'heldout')
  assert (made.split, made.failure, made.threshold) == ('heldout', 'early', 0.95)
  assert made.kind == 'probability'
  logits = report.saved({**row, 'evaluation': {**said, 'scores': [-1.0, 2.0]}})
  assert logits.kind == 'logit'
  unscored = report.saved({**row, 'evaluation': {**said, 'scores': None}})
  assert unscored.scores == (None, None)
  with pytest.raises(UserError, match='nothing was said about this row'):
    report.saved(records.to_dict(record()))


def test_two_runs_side_by_side_are_matched_by_set_id_and_steps():
  def of(k, split='s', steps=('a',)):
    return report.Sample(f't{k}', split, 'q', steps, (0.1,), scorer='A')

  a = [of(0), of(1), of(2), of(0, 'other')]
  b = [of(2), of(0), of(1, steps=('b',)), of(3)]
  made, counters = report.side_by_side(a, b)
  assert [s.id for s in made] == ['t0', 't2'] and made[0].rival.scores == (0.1,)
  assert counters == {
    'rows_compared': 2, 'rows_only_in_a': 1, 'rows_only_in_b': 1,
    'rows_with_other_steps': 1,
  }  # fmt: skip


def test_payload_of_pairs_and_trees():
  pairs = view_example.pair(report_example.world_samples(30))
  nodes = [
    report.TreeNode(-1), report.TreeNode(0, ('a',), 2.0), report.TreeNode(0, ('b',)),
    report.TreeNode(1, ('c',), -1.0, 'told', True),
  ]  # fmt: skip
  tree = report.Tree('t', 'q', nodes, 3, kind='logit', facts={'tokens': 1200})
  made = solutions.payload(pairs, [tree, tree])
  assert [f['key'] for f in made['facets']][:3] == [
    'disagreement', 'failure', 'rival_failure',
  ]  # fmt: skip
  row = made['samples'][0]
  assert row['benchmark'] == 'process_bench' and row['disagreement']
  assert row['rival']['failure'] == row['rival_failure']
  assert row['scale'] != row['rival']['scale']
  assert [t['id'] for t in made['trees']] == ['t', 't (2)']
  shown = made['trees'][0]
  assert [n.get('chosen', False) for n in shown['nodes']] == [True, True, False, True]
  assert shown['nodes'][3]['right'] is True and shown['facts'] == [['tokens', '1,200']]
  assert made['scales'][shown['scale']] == [-2.0, 0.0, 2.0]


def test_what_does_not_fit_is_refused():
  pairs = view_example.pair(report_example.world_samples(2))
  other = dataclasses.replace(pairs[0], scorer='another')
  with pytest.raises(ValueError, match='one page compares two scorers'):
    solutions.payload([*pairs, other])
  short = dataclasses.replace(pairs[0].rival, scores=(1.0,))
  with pytest.raises(ValueError, match='and 1 scores, '):
    solutions.payload([dataclasses.replace(pairs[0], rival=short)])
  loop = [report.TreeNode(-1), report.TreeNode(1)]
  for tree in (report.Tree('t', 'q', loop), report.Tree('t', 'q', [], None)):
    with pytest.raises(ValueError, match="tree 't'"):
      solutions.payload([], [tree])


def test_widget_is_one_frame_whose_text_is_escaped():
  bad = report.Sample(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), (0.1,), generator=HOSTILE)
  tree = report.Tree(
    HOSTILE, HOSTILE, [report.TreeNode(-1), report.TreeNode(0, (HOSTILE,), 1, HOSTILE)],
    1, HOSTILE, HOSTILE, answer=HOSTILE, facts={HOSTILE: HOSTILE},
  )  # fmt: skip
  frame = report.widget([bad, tree, record(scores=BOTH)], scorers=['x'])._repr_html_()
  outside = read(frame)
  assert outside.names == ['iframe']
  attributes = {k: v for _, k, v in outside.attributes}
  assert attributes['sandbox'] == 'allow-scripts'
  page = attributes['srcdoc']
  inside = read(page)
  assert inside.names.count('script') == 2 and 'img' not in inside.names
  assert 'header' not in inside.names and 'inline' in page
  held = embedded(page)
  assert held['trees'][0]['nodes'][1]['steps'] == [HOSTILE]
  assert [s['id'] for s in held['samples']] == ['t0', HOSTILE]
