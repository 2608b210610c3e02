"""The report page: complete, escaped, self-contained, deterministic, not too large."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
import report_example

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.evaluation import report
from prm_jax.evaluation.report import charts, scales, solutions, words

HOSTILE = (
  '</script><script>alert(1)</script><img src=x onerror=alert(1)>"\'&\u2028\u2029\0'
)


class Reader(html.parser.HTMLParser):
  """Checks that elements are balanced and collects what a browser would act on."""

  VOID = frozenset(('meta', 'link', 'br', 'hr', 'input', 'wbr'))

  def __init__(self):
    super().__init__()
    self.open, self.names, self.attributes, self.text = [], [], [], []

  def handle_starttag(self, name, attributes):
    self.names.append(name)
    self.attributes += [(name, k, v) for k, v in attributes]
    if name not in self.VOID:
      self.open.append(name)

  def handle_endtag(self, name):
    assert self.open and self.open[-1] == name, f'</{name}> closes {self.open[-3:]}'
    self.open.pop()

  def handle_data(self, data):
    if not self.open or self.open[-1] not in ('script', 'style'):
      self.text.append(data)


def read(page):
  reader = Reader()
  reader.feed(page)
  reader.close()
  assert reader.open == []
  return reader


def embedded(page):
  """The JSON that the page's script reads."""
  return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


@pytest.fixture(scope='module')
def example():
  return report_example.example(60)


@pytest.fixture(scope='module')
def page(example):
  return report.render(example)


def test_sections_metrics_and_words_are_there(page, example):
  reader = read(page)
  ids = [v for _, k, v in reader.attributes if k == 'id']
  assert len(ids) == len(set(ids))
  for anchor in ('results', 'tables', 'curves', 'solutions', 'metrics', 'counters'):
    assert anchor in ids
  shown = ' '.join(''.join(reader.text).split())
  for path, value in example.metrics.items():
    assert path.rsplit('/', 1)[-1] in shown
    if value['value'] is not None:
      assert scales.number(value['value']) in shown
  for sentence in (
    'Harmonic mean of two accuracies', 'bootstrap by problem', 'random choice among',
    'properties of that world', 'Judged against on_track: no wrong step so far.',
    'undefined', 'Higher is better.',
    'cut at 128 tokens', 'duplicates removed', '4f2c9d1',
  ):  # fmt: skip
    assert sentence in shown, sentence


def test_nothing_is_loaded_from_anywhere(page):
  reader = read(page)
  for name, key, value in reader.attributes:
    if key in ('src', 'href', 'action', 'data', 'srcset', 'poster'):
      assert value.startswith(('#', 'data:')), (name, key, value)
    assert not key.startswith('on') and key != 'style', (name, key)
  assert not re.search(r'url\(|@import|@font-face', page)
  addresses = set(re.findall(r'https?://[^\s"\'<]+', page))
  assert addresses <= {'http://www.w3.org/2000/svg'}
  policy = next(v for _, k, v in reader.attributes if k == 'content' and 'src' in v)
  assert policy.startswith("default-src 'none';") and 'unsafe' not in policy


def test_hostile_text_stays_text(example):
  sample = report.Sample(
    id=HOSTILE, split=HOSTILE, question=HOSTILE, steps=(HOSTILE, '\ud800'),
    scores=(0.1, None), truth=(0.0, None), gold_first_error=0,
    predicted_first_error=0, threshold=0.5, answer=HOSTILE, generator=HOSTILE,
  )  # fmt: skip
  bad = report.ReportData(
    title=HOSTILE, job=HOSTILE, command=HOSTILE, summary=HOSTILE,
    highlights={HOSTILE: HOSTILE}, headline=((HOSTILE, HOSTILE),),
    metrics={HOSTILE: report_example.interval(0.5)}, judged_by={'': HOSTILE},
    tables=(
      report.Table(HOSTILE, (HOSTILE, HOSTILE), [report.Row(HOSTILE, [HOSTILE])]),
    ),
    learning_curves=(report.LineChart(HOSTILE, {HOSTILE: [(1, 2)]}, HOSTILE, HOSTILE),),
    reliability=(report.Reliability(HOSTILE, [(3, 0.5, 0.5)]),),
    counters={HOSTILE: 1}, warnings=(HOSTILE,), samples=(sample,), truth=HOSTILE,
    provenance={HOSTILE: HOSTILE},
  )  # fmt: skip
  page = report.render(bad)
  reader = read(page)
  assert reader.names.count('script') == 2 and 'img' not in reader.names
  raw = re.search(r'id="data">(.*?)</script>', page, re.S).group(1)
  assert not set('<>&\u2028\u2029\0') & set(raw)
  assert embedded(page)['samples'][0]['steps'][0] == HOSTILE
  page.encode('utf-8')


def test_equal_data_give_equal_bytes(tmp_path, example):
  a, b = tmp_path / 'a' / 'report.html', tmp_path / 'b.html'
  report.write(a, example)
  metrics = dict(reversed(example.metrics.items()))
  report.write(b, dataclasses.replace(report_example.example(60), metrics=metrics))
  assert a.read_bytes() == b.read_bytes()
  with pytest.raises(UserError, match='cannot be written'):
    report.write(b / 'report.html', example)


def test_five_thousand_solutions_make_a_page_of_a_few_megabytes():
  samples = report_example.world_samples(5000)
  page = report.render(report.ReportData(title='many', job='evaluate', samples=samples))
  assert len(page.encode()) < 5e6
  assert len(embedded(page)['samples']) == 5000


def test_a_report_may_hold_next_to_nothing():
  page = report.render(report.ReportData(title='empty', job='evaluate'))
  assert read(page).names.count('section') == 0
  empty = report.LineChart('nothing', {'a': [], 'b': [(1, None)]})
  one = report.LineChart('one', {'a': [(4, 0.5, 0.4, 0.6)]}, log2=True)
  flat = report.Reliability('flat', [(0, 0, 0)])
  data = report.ReportData(title='x', job='train', learning_curves=(empty, one),
                           reliability=(flat,))  # fmt: skip
  assert 'No points to draw.' in report.render(data)


@pytest.mark.parametrize(
  ('gold', 'predicted', 'kind'),
  [(2, 2, 'found'), (2, 1, 'early'), (2, 3, 'late'), (2, -1, 'missed'),
   (-1, 0, 'false_alarm'), (-1, -1, 'accepted'), (None, 0, 'unknown'),
   (1, None, 'unknown')],
)  # fmt: skip
def test_failure_kinds(gold, predicted, kind):
  assert report.failure_kind(gold, predicted) == kind
  assert kind in report.FAILURE_KINDS


def test_predicted_first_error():
  assert report.predicted_first_error([0.9, 0.5, 0.1], 0.5) == 1
  assert report.predicted_first_error([0.9, 0.6], 0.5) == -1
  assert report.predicted_first_error([0.9, None, 0.1], 0.5) is None
  assert report.predicted_first_error([0.1, None], 0.5) == 0


def test_sample_from_a_record():
  trajectory = records.Trajectory(
    id='t', problem_id='p', question='q', steps=('a', 'b'), answer='3',
    verdicts={'exact': records.Verdict(False)},
    labels={'valid': records.LabelSet('correctness', (1.0, 0.0))},
    first_error={'valid': 1}, scores={'prm': records.ScoreSet('logit', (2.0, 0.5))},
  )  # fmt: skip
  made = report.sample(
    trajectory, split='s', scorer='prm', label='valid', threshold=1.0
  )
  assert (made.failure, made.truth, made.verdict) == ('found', (1.0, 0.0), False)
  assert report.sample(
    trajectory, split='s', scorer='prm', label='on_track', threshold=None
  ).failure == 'unknown'  # fmt: skip


def test_payload_scales_repeats_and_numbers_of_numpy():
  base = report.Sample(
    'a', 's', 'q', ('x', 'y'), tuple(np.float32([3, -1])),
    gold_first_error=np.int64(1), threshold=1.0, kind='logit',
  )  # fmt: skip
  nan = dataclasses.replace(base, scores=(float('nan'), None))
  made = json.loads(solutions.json_text(solutions.payload([base, nan])))
  assert [s['id'] for s in made['samples']] == ['a', 'a (2)']
  assert made['scales'] == [[-1.0, 1.0, 3.0]]
  assert made['samples'][0]['scores'] == [3.0, -1.0]
  assert made['samples'][1]['scores'] == [None, None]
  with pytest.raises(ValueError, match='2 steps, 1 scores'):
    solutions.payload([dataclasses.replace(base, scores=(1.0,))])


def test_ticks_and_numbers():
  assert scales.nice_ticks(0.42, 0.97) == [0.4, 0.6, 0.8, 1.0]
  assert scales.nice_ticks(3, 3) == sorted(scales.nice_ticks(3, 3))
  assert scales.bar_scale([report_example.interval(-0.1)])[0] < 0
  assert scales.bar_scale([report_example.interval(0.9)]) == (0.0, 1.0)
  shown = [scales.number(v) for v in (0.5, 12345, -0.25, None, 1e-9, np.int64(1200))]
  assert scales.fixed(-1e-9) == '0.000'
  assert shown == ['0.500', '12,345', '−0.250', '–', '1.0e−09', '1,200']


def test_long_curves_are_thinned_but_keep_their_spikes():
  points = [(k, 50.0 if k == 7777 else 1.0) for k in range(20_000)]
  page = charts.line_chart(report.LineChart('loss', {'loss': points}))
  assert page.count('<circle class="hit"') <= charts.MOST_POINTS + 1
  assert 'loss: 50.000 at 7,777' in page and 'at 20k' not in page
  read(page)


def test_words_for_metric_paths():
  f1 = words.meaning('heldout/process_bench/f1@tuned:validation')
  assert f1.split == 'heldout' and f1.family == 'process_bench' and not f1.scorer
  assert 'tuned on validation' in f1.definition and f1.better == 'higher'
  path = 'heldout/process_bench/f1@tuned:validation[baseline_position_length]'
  other = words.meaning(path)
  assert other.baseline and other.group == f1.group and other.label == f1.label
  gap = words.meaning('heldout/best_of_n/prm_min-majority@16')
  assert gap.difference and gap.label == 'PRM min minus majority vote, N\u00a0=\u00a016'
  ties = words.meaning('gsm8k/best_of_n/prm_last@32:lowest_index[a/b-7B]')
  assert 'sampled first' in ties.definition and 'equally' not in ties.definition
  assert ties.scorer == 'a/b-7B' and not ties.difference
  mapped = words.meaning('heldout/calibration/brier@platt:validation')
  assert mapped.better == 'lower' and 'fitted on validation' in mapped.definition
  assert (
    words.meaning('a/b/own_thing', {'a/b/own_thing': 'Said.'}).definition == 'Said.'
  )
  assert words.meaning('unheard_of').label == 'unheard of'
  assert words.meaning('a/next_token/loss').better == 'lower'
  truths = {'': 'on_track', 'heldout/best_of_n': 'the answer', 'x': 'none'}
  assert words.judged_by('heldout/best_of_n/majority@2', truths) == 'the answer'
  assert words.judged_by('x/y', truths) == ''
