"""A made-up report with everything a page can show; every number is invented.

`python tests/report_example.py OUT.html [N]` writes it with N solutions.
"""

import random
import sys

from prm_jax.evaluation import report

SPLITS = ('heldout', 'heldout_longer', 'heldout_misconceptions')
LONG_STEPS = (
  'We want the number of ordered pairs $(a, b)$ of positive integers with '
  '$a + b = 100$ and $\\gcd(a, b) = 1$.',
  'Since $\\gcd(a, 100 - a) = \\gcd(a, 100)$, it is enough to count the $a$ with '
  '$1 \\le a \\le 99$ and $\\gcd(a, 100) = 1$, which is \\[\\varphi(100) = 100 '
  '\\left(1 - \\frac{1}{2}\\right)\\left(1 - \\frac{1}{5}\\right) = 40.\\]',
  'Each such $a$ gives exactly one $b$, but the pairs $(a, b)$ and $(b, a)$ are the '
  'same, so we divide by two: $40 / 2 = 20$.\n\nNote that $a = b = 50$ is not allowed '
  'because $\\gcd(50, 50) = 50 \\ne 1$.',
  'Therefore the answer is $\\boxed{20}$.',
)


def interval(value, spread=0.02, n=1000):
  """An interval in the form of results.json."""
  low, high = value - spread, value + spread * 0.9
  return {'value': value, 'low': low, 'high': high, 'n': n}


def world_samples(count, seed=0):
  """Solutions of arithmetic chains with invented scores and right labels."""
  rng = random.Random(seed)
  out = []
  for k in range(count):
    split = SPLITS[k % 3]
    length = rng.randint(4, 8) + (6 if split == 'heldout_longer' else 0)
    true = shown = rng.randint(0, 9)
    question, steps, truth, gold = [str(true)], [], [], -1
    wrong_at = rng.choice([None, rng.randrange(length)])
    for t in range(length):
      sign = '+' if true < 5 else '-'
      move = rng.randint(1, 4)
      step = move if sign == '+' else -move
      true, shown = true + step, (shown + step) % 10
      if t == wrong_at:
        shown, gold = (shown + rng.choice([1, 9])) % 10, t
      question.append(f'{sign} {move}')
      steps.append(f'{sign}{move}={shown}')
      truth.append(0.0 if gold >= 0 else 1.0)
    scores = [min(max(rng.gauss(0.9 if v else 0.2, 0.19), 0.001), 0.999) for v in truth]
    if k % 97 == 5:
      scores[-1] = None
    out.append(
      report.Sample(
        id=f'{split}-{k:05d}',
        split=split,
        question=' '.join(question),
        steps=tuple(steps),
        scores=tuple(scores),
        truth=tuple(truth),
        gold_first_error=gold,
        predicted_first_error=report.predicted_first_error(scores, 0.47),
        threshold=0.47,
        answer=str(shown),
        gold_answer=str(true),
        verdict=shown == true,
        generator=f'solver_{k % 5}',
      )
    )
  return out


def text_sample():
  """A solution in long lines of LaTeX source."""
  return report.Sample(
    id='math/17:3',
    split='processbench_math',
    question='How many ordered pairs $(a, b)$ of positive integers satisfy '
    '$a + b = 100$ and have greatest common divisor $1$?',
    steps=(*LONG_STEPS, 'x' * 300, 'A very long remark. ' * 400),
    scores=(0.97, 0.91, 0.22, 0.31, 0.4, 0.35),
    truth=(1.0, 1.0, 0.0, 0.0, None, None),
    gold_first_error=2,
    predicted_first_error=2,
    threshold=0.47,
    answer='20',
    gold_answer='40',
    verdict=False,
    generator='some-model-7b',
  )


def metrics():
  """Metric paths with invented intervals."""
  out = {}
  for split, drop in zip(SPLITS, (0.0, 0.13, 0.07), strict=True):
    at = f'{split}/process_bench'
    out[f'{at}/f1@tuned:validation'] = interval(0.931 - drop)
    out[f'{at}/accuracy_error@tuned:validation'] = interval(0.917 - drop, n=521)
    out[f'{at}/accuracy_correct@tuned:validation'] = interval(0.945 - drop, n=479)
    out[f'{split}/steps/auroc'] = interval(0.984 - drop / 2, 0.006)
    out[f'{split}/steps/base_rate'] = interval(0.871, 0.008)
    out[f'{split}/calibration/ece'] = interval(0.021 + drop / 3, 0.004)
    out[f'{split}/best_of_n/prm_min-majority@16'] = interval(0.342 - drop, 0.05, 500)
    for n in (1, 2, 4, 8, 16):
      for name, top in (('prm_min', 0.84), ('majority', 0.5), ('oracle', 0.94)):
        value = 0.46 + (top - drop - 0.46) * (n - 1) ** 0.5 / 15**0.5
        out[f'{split}/best_of_n/{name}@{n}'] = interval(value, 0.04, 500)
  out['heldout/process_bench/f1@argmax'] = {
    'value': None, 'low': None, 'high': None, 'n': 0
  }  # fmt: skip
  return out


def best_of_n(split='heldout'):
  """Accuracy against N for selectors and baselines."""
  tops = {
    'PRM min': 0.842, 'PRM product': 0.851, 'PRM last': 0.803, 'PRM mean': 0.722,
    'weighted vote': 0.688, 'majority': 0.501, 'oracle': 0.941, 'pass@1': 0.46,
    'fewest steps': 0.472, 'shortest': 0.455,
  }  # fmt: skip
  series = {}
  for name, top in tops.items():
    points = []
    for n, share in ((1, 0.0), (2, 0.42), (4, 0.69), (8, 0.88), (16, 1.0)):
      value = 0.46 + (top - 0.46) * share
      points.append((n, value, value - 0.035, value + 0.034))
    series[name] = points
  return report.LineChart(
    title=f'Best of N, {split.replace("_", " ")}',
    series=series,
    x_label='N, candidates per problem',
    y_label='share of problems answered right',
    baselines=('majority', 'oracle', 'pass@1', 'fewest steps', 'shortest'),
    log2=True,
    note='All N are drawn from the same 16 candidates of each problem.',
  )


def example(count=300, seed=0):
  """`ReportData` with every section filled."""
  rng = random.Random(seed)
  losses = [
    (20 * k, 0.21 + 1.6 * 0.985**k + rng.gauss(0, 0.03 * 0.99**k))
    for k in range(1, 151)
  ]
  f1 = [(500 * k, 0.94 - 0.9 * 0.45**k) for k in range(7)]
  shown = metrics()
  cells = ('f1@tuned:validation', 'accuracy_error@tuned:validation')
  rows = [
    report.Row(
      split.replace('_', ' '),
      [*(shown[f'{split}/process_bench/{c}'] for c in cells),
       shown[f'{split}/steps/auroc']],
    )
    for split in SPLITS
  ]  # fmt: skip
  rows += [
    report.Row('position and length', [interval(0.213), interval(0.121),
               interval(0.652)], baseline=True),
    report.Row('all correct', [interval(0.0, 0.0), interval(0.0, 0.0),
               interval(0.5, 0.0)], baseline=True),
  ]  # fmt: skip
  difference = report.Table(
    'Best of 16 against majority vote',
    ('split', 'PRM min @16', 'majority @16', 'oracle @16', 'PRM min minus majority'),
    [
      report.Row(
        split.replace('_', ' '),
        [shown[f'{split}/best_of_n/{m}@16']
         for m in ('prm_min', 'majority', 'oracle', 'prm_min-majority')],
      )
      for split in SPLITS
    ],
    note='The last column is the paired difference over the same 500 problems.',
  )  # fmt: skip
  bins = []
  for k in range(10):
    score = (k + 0.5) / 10
    truth = min(max(score + 0.1 * (0.5 - score) + rng.gauss(0, 0.03), 0.0), 1.0)
    low, high = max(truth - 0.06, 0.0), min(truth + 0.06, 1.0)
    bins.append((int(20 + 3000 * abs(score - 0.5) ** 2), score, truth, low, high))
  return report.ReportData(
    title='Step values by ranking, embedded world',
    job='train',
    command='python -m prm_jax.main --config=configs/pqm.py --workdir=runs/pqm '
    '--config.seed=0',
    summary='A 2-layer model of 118 thousand parameters learned to rank the steps of '
    'arithmetic chains by whether the solution is still on track, and was measured on '
    '3,000 solutions of problems it had not seen.',
    highlights={
      'objective': 'q_ranking, margin 4',
      'label trained on': 'on_track',
      'judged against': 'on_track (no wrong step so far)',
      'training data': 'world:train, 12,000 solutions',
      'model': '2 layers, width 64, 118k parameters',
      'training steps': 3000,
      'seed': 0,
      'threshold': '0.47, tuned on validation',
    },
    headline=(
      ('heldout/process_bench/f1@tuned:validation',
       'The model names the first wrong step, or its absence, far more often than the '
       'position-and-length baseline (0.213).'),
      ('heldout/best_of_n/prm_min-majority@16',
       'Choosing by the lowest step score answers 34 more problems in 100 than '
       'majority vote over the same 16 candidates.'),
      ('heldout_longer/process_bench/f1@tuned:validation',
       'On chains longer than any in training it loses 13 points.'),
    ),
    metrics=shown,
    judged_by={
      '': 'on_track',
      **{f'{s}/best_of_n': 'exact' for s in SPLITS},
    },
    tables=(
      report.Table(
        'Finding the first wrong step',
        ('set', 'F1', 'accuracy on wrong', 'step AUROC'),
        rows,
        note='F1 is the harmonic mean of the accuracy on wrong and on correct '
        'solutions, with the threshold tuned on validation problems. Judged against '
        'on_track.',
      ),
      difference,
    ),
    learning_curves=(
      report.LineChart('Training loss', {'loss': losses}, y_label='loss per step'),
      report.LineChart('Validation', {'F1': f1}, y_label='F1, validation',
                       y_range=(0, 1)),
    ),
    reliability=(
      report.Reliability('Reliability, heldout', bins,
                         note='After a calibration fitted on validation problems.'),
    ),
    best_of_n=(best_of_n(),),
    counters={
      'train/rows_too_long': 14,
      'train/rows_without_labels': 0,
      'heldout/answers_unjudged': 0,
      'heldout/solutions_truncated': 3,
      'train/duplicates_removed': 211,
    },
    warnings=(
      '3 solutions of heldout longer were cut at 128 tokens and count as wrong.',
    ),
    samples=[*world_samples(count, seed), text_sample()],
    truth='on_track',
    provenance={
      'git revision': '4f2c9d1',
      'jax': '0.10.2',
      'flax': '0.12.8',
      'device': 'cpu, 2 cores',
      'wall time': '1 min 52 s',
      'data': 'world:train 9c1f0e2ab4',
      'model': 'sha256 51c0e7',
    },
    embedded_world=True,
  )  # fmt: skip


if __name__ == '__main__':
  report.write(sys.argv[1], example(int(sys.argv[2]) if len(sys.argv) > 2 else 300))
