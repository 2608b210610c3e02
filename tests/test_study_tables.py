"""What a study makes of the results of its runs, which are made up here."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import BASE, results, run

from prm_jax.evaluation import replicates
from prm_jax.evaluation.intervals import Estimate
from prm_jax.jobs import study

LOSS = 'validation/next_token/loss'
AUROC = 'heldout/steps/auroc'


@pytest.fixture
def made_up(monkeypatch):
  """Runs that end at once: trial i has the loss 1 + i, seed s the AUROC .99 - s / 10;
  returns the arguments of those that were asked for."""
  asked = {}

  def one(work, run_, stop):
    asked[run_.key] = run_.arguments
    number = int(run_.key.rsplit('-', 1)[1])
    folder = Path(work.path) / 'runs' / run_.key
    folder.mkdir(parents=True, exist_ok=True)
    value = 0.99 - number / 10
    held = Estimate(value, n=50, replicates=np.full(4, value), key='k')
    replicates.save(folder / replicates.FILE, {AUROC: held})
    return run_.key, {'metrics': {LOSS: {'value': 1.0 + number}}}

  monkeypatch.setattr(study, '_one', one)
  return asked


def words(workdir, *more):
  return [
    'prm_jax',
    f'--config={BASE}',
    f'--workdir={workdir}',
    '--config.job=study',
    '--config.study.methods=a=configs/policy.py',
    '--config.study.seeds=0',
    '--config.study.seeds=1',
    f'--config.study.metrics={AUROC}',
    *(f'--config.study.{m}' for m in more),
  ]


def test_trials_are_chosen_by_the_better_end_of_a_metric(made_up, tmp_path, capsys):
  trials = [f'trials=optimizer.peak_lr={rate}' for rate in (0.1, 0.2, 0.3)]
  assert run(words(tmp_path, *trials, f'select={LOSS}')) == 0
  assert '--config.optimizer.peak_lr=0.1' in made_up['a/default/seed-0']
  assert json.loads((tmp_path / 'results.json').read_text())['chosen']['a'][-1] == (
    'optimizer.peak_lr=0.1'
  )
  capsys.readouterr()


def test_a_metric_that_no_run_has_and_intervals_of_shares(made_up, tmp_path, capsys):
  assert run(words(tmp_path, 'metrics=heldout/steps/aurok')) == 0
  table = (tmp_path / 'table.md').read_text()
  assert '| a | undefined in every run, or never measured | | |' in table
  (found,) = results(tmp_path)['metrics'].values()
  assert found['high'] == 1 and found['low'] < found['value']
  assert 'are cut at 0 and 1' in table
  capsys.readouterr()
