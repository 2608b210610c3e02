"""Calibration as a mode of evaluate: fitted, stored, reported, refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tiny_runs import ROOT, arguments, refusal, results, run, tool, write_lines

from prm_jax import exports, records, tensors
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.inference import api
from prm_jax.jobs import assemble
from prm_jax.jobs.configuration import parse
from prm_jax.models import weights
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat
from prm_jax.worlds import arithmetic
from prm_jax.worlds.arithmetic import WorldConfig

CONFIG = str(ROOT / 'configs' / 'calibrate.py')


MODEL = ModelSpec(
  260, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32
)
SPEC = ScorerSpec(
  MODEL,
  HeadSpec(kind='linear', n_outputs=3),
  StepFormat(question_template='{question}', max_length=48),
  step_value='quantile',
  kind='probability',
  reduction='last',
  levels=(0.1, 0.5, 0.9),
)
SEED = 0  # of weights whose scores happen to rise with the truth


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A scorer with weights as they were drawn."""
  work = tmp_path_factory.mktemp('calibrate')
  rng = np.random.default_rng(SEED)
  declared = weights.flatten(weights.declare(MODEL, SPEC.head))
  params = {k: rng.normal(0, 0.3, w.shape).astype(np.float32) for k, w in declared}
  exports.save_scorer(
    work / 'scorer', SPEC, tensors.unflatten(params), tokenizers.load('bytes')
  )
  return work


def calibrate(work, trained, **changes):
  options = {'scorer': trained, 'data__train': '', 'data__truth': 'value'}
  return arguments(work, CONFIG, **(options | changes))


def test_fits_stores_and_reports(trained, tmp_path, capsys):
  work = tmp_path / 'work'
  argv = calibrate(
    work, trained, data__pools='pool=world:heldout', adaptive__orders=2,
    evaluate__calibrate='isotonic', world__n_validation=60,
  )  # fmt: skip
  assert run(argv) == 0
  assert capsys.readouterr().err.endswith(f'{work}: results.json, report.html\n')
  held = results(work)
  assert held['calibration']['kind'] == 'isotonic'
  assert held['calibration']['problems'] == 60 and held['calibration']['data_hash']
  assert held['counters']['heldout/read/trajectories'] == 24
  metrics = held['metrics']
  for at in (
    'raw',
    'platt:validation',
    'temperature:validation',
    'isotonic:validation',
  ):
    assert metrics[f'heldout/calibration/ece_mass15@{at}']['value'] is not None
    assert metrics[f'heldout/calibration/brier_gain@{at}']['low'] is not None
  assert metrics['heldout/steps/auroc-raw@platt:validation']['value'] == 0
  parts = [
    metrics[f'heldout/calibration/{n}@raw']['value']
    for n in ('coverage', 'below', 'above')
  ]
  assert sum(parts) == pytest.approx(1)
  assert metrics['pool/adaptive/gain@sequence:0.9[weighted]']['n'] == 4
  assert 'by position' in (work / 'report.html').read_text()
  assert metrics['heldout/calibration/coverage@margin:validation']['value'] > 0.5
  assert held['calibration']['margin'] is not None
  # The map lies beside the scorer, and score applies it.
  stored = exports.load_calibration(trained / 'scorer')
  assert (
    json.loads((work / 'calibration.json').read_text())['data_hash'] == stored.data_hash
  )
  rows = [['+1=2', '-1=1']]
  raw, cooked = (
    api.score(str(trained), ['>1+1-1=?'], rows, calibrated=c)[0] for c in (False, True)
  )
  np.testing.assert_allclose(cooked, stored.apply(np.array(raw)), rtol=1e-5)
  file = tmp_path / 'rows.jsonl'
  file.write_text(
    '{"id": "a", "problem_id": "p", "question": ">1+1-1=?", '
    '"steps": ["+1=2", "-1=1"]}\n'
  )
  argv = arguments(
    None, tiny={'job': 'score'}, input=file, output=tmp_path / 'out.jsonl',
    scorer=trained, scorer_calibrated=True,
  )  # fmt: skip
  assert run(argv) == 0
  scores = next(iter(records.read(tmp_path / 'out.jsonl'))).scores['prm']
  assert scores.kind == 'probability'
  np.testing.assert_allclose(scores.values, cooked, rtol=1e-5)
  about = json.loads((tmp_path / 'out.results.json').read_text())['scorer']
  assert about['calibration']['fitted_on'] == 'validation'


def rows_of(path, rows, bare, long=None):
  """A file of `rows`, the one numbered `bare` without steps, `long` too long."""
  rows = list(rows)
  rows[bare] = dataclasses.replace(rows[bare], steps=(), labels={}, first_error={})
  if long is not None:
    steps = ('1' * 60, *rows[long].steps[1:])
    rows[long] = dataclasses.replace(rows[long], steps=steps)
  return write_lines(path, map(records.to_dict, rows))


def test_candidates_that_cannot_be_scored_cost_no_run(trained, tmp_path):
  """Nor do rows without steps, wherever they stand: they have no vote."""
  world = WorldConfig(n_validation=60, n_heldout=24, min_ops=4, max_ops=4)
  pool = arithmetic.pool(world, 'heldout', 4, 4)
  files = {
    'data__validation': rows_of(
      tmp_path / 'v.jsonl', arithmetic.split(world, 'validation'), -1
    ),
    'data__evaluate': 'held='
    + rows_of(tmp_path / 'e.jsonl', arithmetic.split(world, 'heldout'), 3),
    'data__pools': 'pool=' + rows_of(tmp_path / 'p.jsonl', pool, -1, 0),
  }
  work = tmp_path / 'work'
  assert run(calibrate(work, trained, adaptive__orders=2, **files)) == 0
  held = results(work)
  assert held['counters']['pool/adaptive/unscored'] == 2
  assert held['metrics']['pool/adaptive/gain@sequence:0.9[weighted]']['n'] == 4


def test_a_map_is_stored_before_pools_are_measured(
  trained, tmp_path, monkeypatch, capsys
):
  def fails(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr('prm_jax.jobs.calibrate._adaptive', fails)
  pools = {'data__pools': 'pool=world:heldout', 'world__n_validation': 60}
  argv = calibrate(tmp_path, trained, **pools)
  capsys.readouterr()
  assert run(argv) == 130
  assert exports.load_calibration(tmp_path).fitted_on == 'validation'
  assert f'{tmp_path}/calibration.json: platt,' in capsys.readouterr().err
  argv.append('--config.evaluate.calibrate=temperature')
  assert run([w.replace(str(tmp_path), f'{tmp_path}/other', 1) for w in argv]) == 130
  place = f'{trained}/scorer/calibration.json'
  assert f'{place}: temperature (replaces platt)' in capsys.readouterr().err
  export = tmp_path / 'export'
  assert run(tool('export', input=trained, output=export)) == 0
  (export / exports.CALIBRATION).write_text('{')
  assert run(calibrate(tmp_path / 'of_export', export, **pools)) == 130
  said = capsys.readouterr().err
  assert f'{export}/calibration.json: platt (replaces a damaged one)' in said
  api.open_scorer(export, calibrated=True)


@pytest.mark.slow
def test_a_scorer_that_cannot_be_written_keeps_what_was_measured(trained, tmp_path):
  scorer = tmp_path / 'scorer'
  shutil.copytree(trained / 'scorer', scorer, ignore=lambda *_: [exports.CALIBRATION])
  (scorer / exports.CALIBRATION).mkdir()  # as little a place to write as others' are
  work = tmp_path / 'work'
  sizes = {'world__n_validation': 60, 'evaluate__resamples': 3}
  assert run(calibrate(work, scorer, data__pools='', **sizes)) == 0
  (warning,) = results(work)['warnings']
  assert warning.startswith(
    f'the map is in the workdir only: {scorer}/calibration.json'
  )
  assert exports.load_calibration(work).kind == 'platt'


def test_what_cannot_be_done_is_refused(trained, tmp_path, capsys):
  def told(**changes):
    return refusal(
      calibrate(tmp_path / 'no', trained, data__pools='', **changes), capsys
    )

  assert "evaluate.calibrate='beta'" in told(evaluate__calibrate='beta')
  assert 'rows to fit on' in told(data__validation='')
  assert 'rows to fit on' in told(data__evaluate='')
  assert 'needs --config.scorer' in told(scorer='')
  assert 'share 24 problems' in told(data__evaluate='again=world:validation')


def test_training_stores_the_levels():
  def levels(name, **changes):
    argv = arguments('unused', str(ROOT / 'configs' / name), tiny={}, **changes)
    return assemble.spec(parse(argv).config, tokenizers.load('bytes')).levels

  assert levels('quantile.py') == (0.1, 0.5, 0.9) and levels('bce.py') == ()
  assert levels('quantile.py', objective__levels='(0.2, 0.5, 0.7)') == (0.2, 0.5, 0.7)
  for wrong in ('(0.2, 0.5)', '(0.5, 0.2, 0.7)', '()', "('a', 'b', 'c')"):
    with pytest.raises(UserError, match=r'objective\.levels='):
      levels('quantile.py', objective__levels=wrong)


def test_levels_are_those_that_the_scorer_was_trained_for(trained, tmp_path, capsys):
  other = {'objective__levels': '(0.25, 0.5, 0.75)', 'data__pools': ''}
  said = refusal(calibrate(tmp_path / 'a', trained, **other), capsys)
  assert '(0.25, 0.5, 0.75)' in said and 'trained for (0.1, 0.5, 0.9)' in said
  # One of before levels were stored: they must be told.
  old = tmp_path / 'old'
  shutil.copytree(trained / 'scorer', old)
  about = json.loads((old / 'spec.json').read_text())
  del about['spec']['levels']
  (old / 'spec.json').write_text(json.dumps(about))
  said = refusal(calibrate(tmp_path / 'b', old, data__pools=''), capsys)
  assert 'does not say for which levels' in said and 'objective.levels' in said
  assert run(calibrate(tmp_path / 'c', old, **other, world__n_validation=60)) == 0
  assert results(tmp_path / 'c')['calibration']['margin'] is not None


@pytest.mark.slow
def test_trained_quantiles_cover_the_true_value(tmp_path):
  # V is known exactly here; 600 unseen problems, one solution each.
  size = {
    'train.steps': 800, 'world.n_validation': 600, 'world.n_heldout': 600,
    'model.n_layers': 1, 'model.d_model': 32, 'model.d_ff': 64, 'report': False,
    'evaluate.resamples': 200, 'data.pools': '',
  }  # fmt: skip
  trained, work = tmp_path / 'quantile', tmp_path / 'work'
  config = str(ROOT / 'configs' / 'quantile.py')
  only = {'data__validation': '', 'data__evaluate': ''}
  assert run(arguments(trained, config, tiny=size, **only)) == 0
  heldout = {'data__evaluate': 'heldout=world:heldout', 'data__truth': 'value'}
  assert run(arguments(work, CONFIG, tiny=size, scorer=trained, **heldout)) == 0
  found = results(work)['metrics']
  raw, wide = (
    found[f'heldout/calibration/coverage@{at}'] for at in ('raw', 'margin:validation')
  )
  assert raw['value'] > 0.5
  assert wide['low'] - 0.02 < 0.8 < wide['high'] + 0.02
  assert found['heldout/calibration/brier_skill@platt:validation']['low'] > 0
