"""Objectives against loops in float64, and what must not change a loss."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax import objectives

B, P = 4, 5
UNITS = objectives.UNITS
NAMES = tuple(n for n, o in objectives.OBJECTIVES.items() if not o.trains_policy)
# Each also with settings that exercise what the defaults leave out.
CASES = [(name, {}) for name in NAMES] + [
  ('td', {'discount': 0.8, 'n_steps': 2, 'shaping': 'cosine'}),
  ('td', {'discount': 0.9, 'lambda_': 0.6, 'terminal': 'last_label'}),
  ('td', {'n_steps': 9, 'train_unlabeled': True, 'clip': False}),
  ('q_ranking_first_error', {'margin': 2.0}),
  ('pinball', {'levels': (0.25, 0.5, 0.8)}),
]
IDS = [f'{n}-{"-".join(map(str, h.values()))}' for n, h in CASES]


@functools.cache
def jitted(name, hyper):
  def f(outputs, batch):
    sums = lambda x, unit: objectives.evaluate(name, x, batch, unit=unit, **dict(hyper))
    with_grad = jax.value_and_grad(sums, has_aux=True)
    found = [with_grad(outputs, unit) for unit in UNITS]
    return (
      jnp.stack([loss for (loss, _), _ in found]),
      jnp.stack([weight for (_, weight), _ in found]),
      jnp.stack([grad for _, grad in found], axis=1),
    )

  return jax.jit(f)


def run(name, outputs, batch, **hyper):
  """Loss sums [3], weights [3], gradients [B, 3, P, ...], for the three units."""
  batch = {'row_mask': np.ones(len(outputs), bool), **batch}
  found = jitted(name, tuple(sorted(hyper.items())))(outputs, batch)
  return [np.float64(x) for x in found]


def make_batch(seed, name, scale=3.0, rows=B, width=P):
  """Random rows, garbage wherever nothing may be read."""
  rng = np.random.default_rng(seed)
  shape = (rows, width)
  n = rng.integers(0, width + 1, rows)
  exists = np.arange(width)[None] < n[:, None]
  mask = exists & (rng.random(shape) < 0.75)
  if name == 'three_class':
    labels = rng.choice([0.0, 0.5, 1.0], shape)
  else:
    labels = rng.choice([0.0, 0.3, 0.5, 1.0, 1.0], shape)
  weights = rng.choice([0.0, 0.5, 1.0, 2.0], shape)
  wide = name in ('three_class', 'pinball')
  outputs = rng.normal(0, scale, (*shape, 3) if wide else shape)
  outputs[~exists] = np.nan
  judged = rng.random(rows) < 0.8
  float32 = lambda x: np.asarray(x, np.float32)
  batch = {
    'labels': float32(np.where(mask, labels, np.nan)),
    'mask': mask,
    'weights': float32(np.where(mask, weights, np.nan)),
    'steps_mask': exists,
    'outcome': float32(np.where(judged, rng.integers(0, 2, rows), np.nan)),
    'outcome_mask': judged,
    'problem_weight': float32(rng.choice([0.25, 0.5, 1.0], rows)),
  }
  return float32(outputs), batch


# The oracle: one row at a time, one term at a time. A row gives a list of terms
# (weight, loss), or for the theoretical form (mean loss, total weight).


def log_add(*logs):
  top = max(logs)
  return top + math.log(sum(math.exp(x - top) for x in logs))


def ce(r, y):
  return y * log_add(0.0, -r) + (1 - y) * log_add(0.0, r)


def sigma(r):
  return 1 / (1 + math.exp(-r)) if r >= 0 else math.exp(r) / (1 + math.exp(r))


def pointwise_terms(name, row, r, **h):
  for t in row['labelled']:
    y, w = row['y'][t], row['w'][t]
    if name == 'bce':
      yield w, ce(r[t], float(y >= 0.5))
    elif name == 'bce_soft':
      yield w, ce(r[t], y)
    elif name == 'mse':
      yield w, (sigma(r[t]) - y) ** 2
    elif name == 'pinball':
      under = [y - sigma(x) for x in r[t]]
      levels = h.get('levels', (0.1, 0.5, 0.9))
      yield w, sum(u * (a if u > 0 else a - 1) for u, a in zip(under, levels)) / 3
    else:
      low = math.floor(2 * y - 1e-9) if y > 0 else 0
      high_share = 2 * y - low
      log_p = [x - log_add(*r[t]) for x in r[t]]
      loss = -(1 - high_share) * log_p[low]
      yield w, loss - high_share * log_p[min(low + 1, 2)]


def ranking_parts(row, r, margin, double_count=False, only_first=False):
  right = [t for t in row['labelled'] if row['y'][t] >= 0.5]
  wrong = [t for t in row['labelled'] if row['y'][t] < 0.5]
  used = wrong[:1] if only_first else wrong
  below = [r[n] + margin for n in used]
  terms = []
  if used:
    terms.append((max(row['w'][n] for n in used), log_add(0.0, *below)))
  for t in right:
    logs = [0.0, r[t], *below, *(r[q] for q in right if q < t)]
    logs += [r[t]] if double_count and t > 0 else []
    terms.append((row['w'][t], log_add(*logs) - r[t]))
  return terms, wrong


def theoretical_row(row, r, double_count):
  terms, wrong = ranking_parts(row, r, 4.0, double_count)
  steps = sum(row['w'][t] for t in row['labelled'])
  if not steps:
    return 0.0, 0.0
  slot = max(row['w'][t] for t in row['labelled'])
  loss = sum(w * x for w, x in terms) / (steps + slot)
  for k in wrong:
    later = [r[j] - r[k] for j in wrong if j > k]
    loss += row['w'][k] * log_add(0.0, *later) / steps
  return loss, steps


def td_terms(row, r, **h):
  gamma, lam = h.get('discount', 1.0), h.get('lambda_')
  exist = list(row['exist'])
  if h.get('terminal') == 'last_label':
    exist = [t for t in exist if row['labelled'] and t <= row['labelled'][-1]]
    end = row['y'][exist[-1]] if exist else None
  else:
    end = row['outcome']
  if not exist:
    return
  v, size = [sigma(x) for x in r], len(exist)
  reward = [0.0] * size
  if h.get('shaping') == 'cosine':
    for t in row['labelled']:
      start = 0.2 if row['y'][t] >= 0.5 else -0.2
      reward[t] = start / 2 * (1 + math.cos(math.pi * t / size))
  final = v[size - 1] if end is None else end

  def horizon(t, n):
    steps = min(n, size - 1 - t)
    tail = final if t + n > size - 1 else v[t + n]
    return sum(gamma**k * reward[t + k] for k in range(steps)) + gamma**steps * tail

  for t in exist:
    if lam is None:
      target = horizon(t, h.get('n_steps', 1))
    else:  # the mixture of horizons itself, not the recursion
      to_end = size - t
      target = lam ** (to_end - 1) * horizon(t, to_end)
      for n in range(1, to_end):
        target += (1 - lam) * lam ** (n - 1) * horizon(t, n)
    if h.get('clip', True):
      target = min(max(target, 0.0), 1.0)
    last = t == size - 1
    if t in row['labelled']:
      w = row['w'][t]
    else:
      w = float(h.get('train_unlabeled', False) or (last and end is not None))
    if last and end is None:
      w = 0.0
    yield w, ce(r[t], target)


def row_terms(name, row, r, **h):
  if name in ('bce', 'bce_soft', 'mse', 'three_class', 'pinball'):
    return list(pointwise_terms(name, row, r, **h))
  if name == 'orm':
    known = row['exist'] and row['outcome'] is not None
    return [(1.0, ce(r[row['exist'][-1]], row['outcome']))] if known else []
  if name == 'orm_no_error':
    weight = max([row['w'][t] for t in row['labelled']], default=0.0)
    fine = float(all(row['y'][t] >= 0.5 for t in row['labelled']))
    return [(weight, ce(r[row['exist'][-1]], fine))] if weight else []
  if name == 'td':
    return list(td_terms(row, r, **h))
  first = name == 'q_ranking_first_error'
  margin = h.get('margin', 0.0 if first else 4.0)
  return ranking_parts(row, r, margin, name == 'q_ranking_released', first)[0]


def oracle(name, outputs, batch, unit, **h):
  loss_sum = weight = 0.0
  for b in range(outputs.shape[0]):
    row = {
      'y': np.float64(batch['labels'][b]),
      'w': np.float64(batch['weights'][b]),
      'labelled': [int(t) for t in np.flatnonzero(batch['mask'][b])],
      'exist': [int(t) for t in np.flatnonzero(batch['steps_mask'][b])],
      'outcome': float(batch['outcome'][b]) if batch['outcome_mask'][b] else None,
    }
    r = np.float64(outputs[b])
    if 'theoretical' in name:
      mean, total = theoretical_row(row, r, name.endswith('released'))
    else:
      terms = row_terms(name, row, r, **h)
      total = sum(w for w, _ in terms)
      mean = sum(w * x for w, x in terms) / total if total else 0.0
    if total:
      share = {'step': total, 'trajectory': 1.0, 'problem': batch['problem_weight'][b]}
      loss_sum += share[unit] * mean
      weight += share[unit]
  return loss_sum, weight


EACH = pytest.mark.parametrize(('name', 'hyper'), CASES, ids=IDS)
PROPERTY = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)


@EACH
def test_oracle(name, hyper):
  for seed in range(25):
    outputs, batch = make_batch(seed, name, scale=1.0 + seed)
    loss, weight, grad = run(name, outputs, batch, **hyper)
    expected = [oracle(name, outputs, batch, unit, **hyper) for unit in UNITS]
    np.testing.assert_allclose(
      np.stack([loss, weight], 1), expected, rtol=2e-5, atol=1e-5
    )
    assert np.isfinite(grad).all()
    assert (np.moveaxis(grad, 1, 2)[~batch['steps_mask']] == 0).all()


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)


def pad(outputs, batch, rows=B + 1, width=P + 1):
  """The batch with filler rows and steps behind the last, full of garbage."""

  def longer(x):
    after = [(0, rows - len(x)), (0, width - P), (0, 0)][: x.ndim]
    return np.pad(x, after, constant_values=False if x.dtype == bool else np.nan)

  n, batch = len(outputs), {k: longer(v) for k, v in batch.items()}
  for name in ('mask', 'steps_mask', 'outcome_mask'):
    batch[name][n:] = True
  batch['row_mask'] = np.arange(rows) < n
  return longer(outputs), batch


@EACH
@PROPERTY
@given(seed=SEEDS, order=st.permutations(range(B)))
def test_order_of_rows_does_not_matter(name, hyper, seed, order):
  outputs, batch = make_batch(seed, name)
  a = run(name, outputs, batch, **hyper)
  b = run(name, outputs[order], {k: v[order] for k, v in batch.items()}, **hyper)
  close(a[:2], b[:2])
  close(a[2][order], b[2])


@EACH
@PROPERTY
@given(seed=SEEDS)
def test_padding_does_not_matter(name, hyper, seed):
  outputs, batch = make_batch(seed, name)
  a = run(name, outputs, batch, **hyper)
  b = run(name, *pad(outputs, batch), **hyper)
  close(a[:2], b[:2])
  close(a[2], b[2][:B, :, :P])
  assert (b[2][B:] == 0).all()
  assert (b[2][:, :, P:] == 0).all()


@EACH
@PROPERTY
@given(seed=SEEDS, cut=st.integers(0, B))
def test_parts_add_up_to_the_whole(name, hyper, seed, cut):
  outputs, batch = make_batch(seed, name)
  whole = run(name, outputs, batch, **hyper)
  a, b = (
    run(name, *pad(outputs[s], {k: v[s] for k, v in batch.items()}), **hyper)
    for s in (slice(0, cut), slice(cut, B))
  )
  close(whole[:2], np.add(a[:2], b[:2]))
  close(whole[2][:cut], a[2][:cut, :, :P])
  close(whole[2][cut:], b[2][: B - cut, :, :P])


@EACH
def test_scaling_all_weights_scales_steps_and_leaves_trajectories(name, hyper):
  # Verdicts and unlabelled steps carry weight 1 of their own: label everything.
  outputs, batch = make_batch(5, name)
  batch |= {'mask': batch['steps_mask'], 'weights': np.float32(batch['steps_mask'])}
  batch['labels'] = np.float32(batch['mask'])
  doubled = batch | {'weights': 2 * batch['weights']}
  factor = np.array([1.0 if name == 'orm' else 2.0, 1.0, 1.0])
  a, b = run(name, outputs, batch, **hyper), run(name, outputs, doubled, **hyper)
  close(np.multiply(a[:2], factor[None]), b[:2])
