"""Maps from scores to probabilities: fitted, stored, applied, and measured."""

import dataclasses
import json

import numpy as np
import pytest
from evaluation_cases import solution, world

from prm_jax import calibration_maps, exports, tensors
from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.evaluation import (
  calibration,
  calibration_fits,
  calibration_report,
  calibration_terms,
)
from prm_jax.evaluation.calibration_terms import BINNINGS, Binning
from prm_jax.evaluation.intervals import resamples
from prm_jax.evaluation.result import Collector, Options
from prm_jax.evaluation.splits import read_scores, read_split
from prm_jax.formats import tokenizers
from prm_jax.inference import api
from prm_jax.models import weights
from prm_jax.records import LabelSet
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat


def read(rows, truth='human', name='test'):
  split = read_split(name, rows, truth, 'exact')
  sample = resamples(split.problem_ids, 50)
  return split, read_scores(split, rows, 'prm'), sample


def steps(scores, labels, kind='probability'):
  """One solution of one step for each score and label."""
  pairs = enumerate(zip(scores, labels, strict=True))
  rows = [solution(f'{i}', [float(s)], labels=[1.0], kind=kind) for i, (s, _) in pairs]
  held = [LabelSet('value', (float(y),)) for y in labels]
  rows = [dataclasses.replace(t, labels={'human': y}) for t, y in zip(rows, held)]
  return read(rows)


def drawn(n, seed=0):
  rng = np.random.default_rng(seed)
  truth = rng.random(n)
  return truth, (rng.random(n) < truth).astype(float)


def test_brier_and_its_parts_by_hand():
  # Bin 1: .1 and .3 with 0, 1; bin 2: .8 with 1.
  split, scores, sample = steps([0.1, 0.3, 0.8], [0, 1, 1])
  found = calibration_terms.decomposition(split, scores, sample, Binning('width', 2))
  value = {k: e.value for k, e in found.items()}
  assert value['brier'] == pytest.approx((0.01 + 0.49 + 0.04) / 3)
  assert value['reliability'] == pytest.approx((2 * 0.3**2 + 0.2**2) / 3)
  assert value['resolution'] == pytest.approx((2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 3)
  assert value['uncertainty'] == pytest.approx(2 / 9)
  within = 2 * 0.01 - 2 * (-0.1 * -0.5 + 0.1 * 0.5)
  assert value['within'] == pytest.approx(within / 3)
  assert value['ece'] == pytest.approx((2 * 0.3 + 0.2) / 3)
  assert value['ece_over'] == 0
  assert value['brier_skill'] == pytest.approx(1 - 0.18 / (2 / 9))
  over = calibration_terms.over_estimation(split, scores, sample)
  assert over['over'].value == pytest.approx(0.1 / 3)
  assert over['positive_brier'].value == pytest.approx(0.01 / 3)
  assert over['bias'].value == pytest.approx((1.2 - 2) / 3)


@pytest.mark.parametrize('binning', BINNINGS, ids=lambda b: b.name)
@pytest.mark.parametrize('soft', [False, True])
def test_the_parts_add_up(binning, soft):
  truth, outcome = drawn(400)
  split, scores, sample = steps(truth**2, truth if soft else outcome)
  found = calibration_terms.decomposition(split, scores, sample, binning)
  parts = {k: np.append(e.value, e.replicates) for k, e in found.items()}
  total = parts['reliability'] - parts['resolution'] + parts['uncertainty']
  np.testing.assert_allclose(total + parts['within'], parts['brier'], atol=1e-12)
  if binning == BINNINGS[0]:
    both = calibration.calibration(split, scores, sample)
    assert found['brier'].value == pytest.approx(both['brier'].value)
    assert found['ece'].value == pytest.approx(both['ece'].value)


def test_bins_of_equal_mass_share_ties():
  values = np.array([0.0] * 6 + [0.1, 0.2, 0.3, 0.9])
  index = Binning('mass', 5).index(values)
  assert len(set(index[:6])) == 1 and len(set(index)) == 3
  even = Binning('mass', 4).index(np.linspace(0, 1, 400))
  assert np.bincount(even).tolist() == [100] * 4
  with pytest.raises(UserError, match="'width' or 'mass'"):
    Binning('area', 3).index(values)


def test_a_perfect_predictor_is_within_its_own_range():
  truth, outcome = drawn(3000, seed=3)
  split, scores, sample = steps(truth, outcome)
  draws = calibration_terms.trials(split)
  assert (draws == 1).all()
  for binning in BINNINGS:
    found = calibration_terms.decomposition(split, scores, sample, binning)['ece']
    mean, low, high = calibration_terms.perfect_ece(truth, draws, binning, n_draws=200)
    assert low < mean < high and low < found.value < high
  # The mean of more draws is less noisy; exact labels of a perfect predictor are it.
  many = calibration_terms.perfect_ece(truth, 16 * draws, BINNINGS[0], n_draws=100)
  assert many[0] == pytest.approx(mean / 4, rel=0.5)
  exact = calibration_terms.perfect_ece(truth, 0 * draws, BINNINGS[0], n_draws=5)
  assert exact == (0.0, 0.0, 0.0)
  soft, *_ = steps([0.5, 0.5], [0.3, 1])
  assert (calibration_terms.trials(soft) == 0).all()
  assert calibration_terms.trials(soft, np.array([4, 8])).tolist() == [4, 8]


def test_temperature_and_platt_recover_what_was_drawn():
  rng = np.random.default_rng(1)
  z = rng.normal(0, 3, 6000)
  y = (rng.random(6000) < 1 / (1 + np.exp(-z / 2))).astype(float)
  split, logits, _ = steps(z, y, 'logit')
  warm = calibration_fits.fit('temperature', split, logits)
  assert warm.parameters['temperature'][0] == pytest.approx(2, rel=0.08)
  platt = calibration_fits.fit('platt', split, logits)
  assert platt.parameters['slope'][0] == pytest.approx(0.5, rel=0.08)
  # Probabilities are read by their log odds, so the same map comes out.
  p = dataclasses.replace(logits, kind='probability', values=1 / (1 + np.exp(-z)))
  again = calibration_fits.fit('platt', split, p)
  np.testing.assert_allclose(
    calibration_fits.apply(again, p).values,
    calibration_fits.apply(platt, logits).values,
    atol=1e-4,
  )
  with pytest.raises(UserError, match="of kind 'logit' cannot read"):
    calibration_fits.apply(platt, p)


def test_isotonic_pools_violators_by_hand():
  split, scores, _ = steps([0.1, 0.2, 0.3, 0.3, 0.9], [0, 1, 0, 0, 1])
  fitted = calibration_fits.fit('isotonic', split, scores)
  # .2 with 1 is pooled with the two at .3 with 0.
  assert fitted.parameters['scores'] == pytest.approx((0.1, 0.8 / 3, 0.9))
  assert fitted.parameters['values'] == pytest.approx((0, 1 / 3, 1))
  np.testing.assert_allclose(
    fitted.apply(np.array([0.0, 0.1, 0.8 / 3, 0.95])), [0, 0, 1 / 3, 1]
  )


def test_log_odds_keep_the_order_of_float32():
  p = np.float32([0, 1e-30, 1e-8, 0.5, 1 - 2**-23, 1 - 2**-24, 1])
  z = calibration_maps.log_odds(p)
  assert np.isfinite(z).all() and (np.diff(z[1:]) > 0).all()
  np.testing.assert_allclose(z[1:3], np.log(np.float64(p[1:3])), rtol=1e-6)


def test_what_cannot_be_calibrated_is_refused():
  split, scores, _ = steps([0.1, 0.9, 0.2, 0.8], [1, 0, 1, 0])
  with pytest.raises(UserError, match='higher scores do not go with'):
    calibration_fits.fit('platt', split, scores)
  one, scores, _ = steps([0.1, 0.9], [1, 1])
  with pytest.raises(UserError, match='labels of both classes'):
    calibration_fits.fit('isotonic', one, scores)
  with pytest.raises(UserError, match="kind 'beta' is unknown"):
    CalibrationMap('beta', 'logit', {})
  for kind, parameters in (
    ('platt', {'slope': (-1.0,), 'intercept': (0.0,)}),
    ('temperature', {'temperature': (float('nan'),)}),
    ('isotonic', {'scores': (0.0, 1.0), 'values': (1.0, 0.0)}),
    ('isotonic', {'slope': (1.0,)}),
  ):
    with pytest.raises(UserError, match='do not make a rising map'):
      CalibrationMap(kind, 'logit', parameters)


SPLITS = {name: world(name, 80, 1, seed) for seed, name in enumerate(('fit', 'held'))}


def maps():
  split, scores, _ = read(SPLITS['fit'], 'on_track', 'fit')
  return {
    kind: calibration_fits.fit(kind, split, scores) for kind in calibration_maps.KINDS
  }


def test_a_split_before_and_after():
  split, scores, _ = read(SPLITS['held'], 'on_track', 'held')
  out = Collector()
  fitted = maps()
  calibration_report.measure(
    out, split, SPLITS['held'], scores, fitted, 'platt', 0.7, Options(n_resamples=50)
  )
  found = out.result()
  at = 'platt:fit'
  value = {k: m['value'] for k, m in found.metrics.items()}
  assert value[f'held/steps/auroc-raw@{at}'] == 0
  assert value[f'held/calibration/brier_gain@{at}'] > 0
  excess = value[f'held/calibration/ece_width15@{at}']
  excess -= value[f'held/calibration/ece_perfect_width15@{at}']
  assert value[f'held/calibration/ece_excess_width15@{at}'] == pytest.approx(excess)
  # Logits have no probability meaning of their own.
  assert 'held/calibration/brier@raw' not in value and 'held/steps/auroc@raw' in value
  titles = [t.title for t in found.tables]
  assert f'held: by position, {at}' in titles and f'held: by generator, {at}' in titles
  parts = next(t for t in found.tables if 'by position' in t.title)
  use = calibration.truth_steps(split, scores)
  assert sum(row.cells[0] for row in parts.rows) == use.sum()
  mean = np.average(
    [r.cells[1] for r in parts.rows], weights=[r.cells[0] for r in parts.rows]
  )
  assert mean == pytest.approx(fitted['platt'].apply(scores.values[use]).mean())
  fit_split, fit_scores, _ = read(SPLITS['fit'], 'on_track', 'fit')
  with pytest.raises(UserError, match="shares 80 problems with 'fit'"):
    calibration_report.measure(
      Collector(), fit_split, SPLITS['fit'], fit_scores, fitted, 'platt', 0.7, Options()
    )


def test_coverage_by_hand():
  split, low, sample = steps([0.2, 0.4, 0.1, 0.5], [0.1, 0.5, 0.9, 0.5])
  high = dataclasses.replace(low, values=np.array([0.6, 0.6, 0.8, 0.5]))
  found = calibration_terms.coverage(split, low, high, sample)
  shares = {k: e.value for k, e in found.items()}
  assert shares == pytest.approx(
    {'coverage': 0.5, 'below': 0.25, 'above': 0.25, 'width': 1.3 / 4}
  )


def test_a_margin_covers_what_was_promised():
  split, low, sample = steps([0.2, 0.4, 0.1, 0.5], [0.1, 0.5, 0.9, 0.5])
  high = dataclasses.replace(low, values=np.array([0.6, 0.6, 0.8, 0.5]))
  # Missed by .1, -.1, .1 and 0; the 4th of 4 covers all, the 3rd also, by ties.
  assert calibration_fits.margin(split, low, high, 0.7) == pytest.approx(0.1)
  assert calibration_fits.margin(split, low, high, 0.2) == pytest.approx(-0.1)
  wide = calibration_fits.widened(low, high, 0.1 + 1e-9)
  assert calibration_terms.coverage(split, *wide, sample)['coverage'].value == 1
  narrow = calibration_fits.widened(low, high, -1.0)
  np.testing.assert_array_equal(narrow[0].values, narrow[1].values)
  with pytest.raises(UserError, match='too few'):
    calibration_fits.margin(split, low, high, 0.9)


def test_rollouts_behind_labels_are_counted():
  row = dataclasses.replace(
    solution('a', [0.5, 0.25], labels=[1, 1]),
    labels={'human': LabelSet('value', (0.5, 0.0), n_rollouts=(4, 8))},
  )
  split, *_ = read([row])
  assert calibration_report.n_rollouts([row], split).tolist() == [4, 8]


MODEL = ModelSpec(
  260, n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=32
)


@pytest.fixture
def stored(tmp_path):
  spec = ScorerSpec(MODEL, HeadSpec(init_scale=0.5), StepFormat(max_length=64))
  declared = dict(weights.flatten(weights.declare(MODEL, spec.head)))
  rng = np.random.default_rng(0)
  params = tensors.unflatten(
    {k: rng.normal(0, 0.3, w.shape).astype(np.float32) for k, w in declared.items()}
  )
  digest = exports.save_scorer(tmp_path, spec, params, tokenizers.load('bytes'))
  return tmp_path, dataclasses.replace(maps()['platt'], model_hash=digest)


def test_stored_with_the_scorer_and_applied_when_asked(stored):
  folder, fitted = stored
  text = (['1+1=?'], [['2', '3']])
  with pytest.raises(UserError, match='fit one with --config=configs/calibrate'):
    api.score(str(folder), *text, calibrated=True)
  exports.save_calibration(folder, fitted)
  assert exports.load_calibration(folder, fitted.model_hash) == fitted
  raw, cooked = (api.score(str(folder), *text, calibrated=c)[0] for c in (False, True))
  np.testing.assert_allclose(cooked, fitted.apply(np.array(raw)), rtol=1e-6)
  scorer, about = api.open_scorer(folder, calibrated=True)
  assert about['kind'] == 'probability' and scorer.spec.kind == 'logit'
  assert about['calibration']['fitted_on'] == 'fit'
  # Fitted anew: the next call reads it.
  warm = dataclasses.replace(maps()['temperature'], model_hash=fitted.model_hash)
  exports.save_calibration(folder, warm)
  again = api.score(str(folder), *text, calibrated=True)[0]
  np.testing.assert_allclose(again, warm.apply(np.array(raw)), rtol=1e-6)


def test_a_calibration_of_other_weights_or_a_damaged_one_is_refused(stored):
  folder, fitted = stored
  exports.save_calibration(folder, dataclasses.replace(fitted, model_hash='other'))
  with pytest.raises(UserError, match='other weights'):
    api.open_scorer(folder, calibrated=True)
  exports.save_calibration(folder, dataclasses.replace(fitted, source='probability'))
  with pytest.raises(UserError, match='reads scores of kind probability'):
    api.open_scorer(folder, calibrated=True)
  file = folder / exports.CALIBRATION
  held = json.loads(file.read_text())
  del held['kind']
  file.write_text(json.dumps(held))
  with pytest.raises(UserError, match='a calibration holds'):
    exports.load_calibration(folder)
