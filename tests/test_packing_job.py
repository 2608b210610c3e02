"""The train job with packed rows: stopped and taken up again, counted, refused."""

import os
import signal

import pytest
import tiny_runs
from tiny_runs import (
  BARE,
  arguments,
  promised,
  record,
  refusal,
  results,
  run,
  write_lines,
)

from prm_jax.jobs import train as job

TINY = {
  **tiny_runs.TINY,
  **BARE,
  'data.packing': True,
  'data.pack_lengths': (100,),
  'data.label': 'human',
  'data.truth': 'human',
  'optimizer.horizon': 30,
}
# Of row 7 the only label is cut off with its step, row 8 has none.
LONG = ['1' * 30, '2' * 30, '3']
ROWS = [
  *(record(i) for i in range(7)),
  record(
    7, steps=LONG, first_error={},
    labels={'human': {'kind': 'correctness', 'how': {}, 'values': [None, None, 0]}},
  ),
  record(
    8, first_error={},
    labels={'human': {'kind': 'correctness', 'how': {}, 'values': [None] * 4}},
  ),
  *(record(i, steps=record(i)['steps'] * 2, first_error={},
           labels={'human': {'kind': 'correctness', 'how': {}, 'values': [1] * 8}})
    for i in range(9, 30)),
]  # fmt: skip


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  return write_lines(tmp_path_factory.mktemp('rows') / 'rows.jsonl', ROWS)


def argv(work, rows, **overrides):
  changes = {'data__train': rows, 'format__truncation': 'drop_steps', **overrides}
  return arguments(work, tiny=TINY, **changes)


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_by_bit(rows, tmp_path, monkeypatch, capsys):
  straight, stopped, alone = (tmp_path / n for n in ('straight', 'stopped', 'alone'))
  assert run(argv(straight, rows)) == 0
  assert 'solutions a batch' in capsys.readouterr().err
  note = job.Run._note

  def noted(self, waiting, window):
    note(self, waiting, window)
    if waiting[0] == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(job.Run, '_note', noted)
    assert run(argv(stopped, rows)) == 75
  assert run(argv(stopped, rows)) == 0
  assert promised(stopped) == promised(straight)

  # What is dropped does not depend on packing; what is padding does.
  packed = results(straight)['counters']
  assert packed['train/rows'] == 30 and packed['train/rows_used'] == 28
  assert packed['train/rows_labels_cut'] == packed['train/rows_unlabelled'] == 1
  assert run(argv(alone, rows, data__packing=False, data__pack_lengths='()')) == 0
  unpacked = results(alone)['counters']
  layout = {'train/epoch_padding', 'train/epoch_batches'}
  assert {k: v for k, v in packed.items() if k not in layout} == {
    k: v for k, v in unpacked.items() if k not in layout
  }
  assert packed['train/epoch_batches'] < unpacked['train/epoch_batches']


def test_refusals(rows, tmp_path, capsys):
  words = refusal(argv(tmp_path / 'a', rows, data__pack_lengths=(20,)), capsys)
  assert 'data.pack_lengths=(20,)' in words
  words = refusal(argv(tmp_path / 'b', rows, data__packing=False), capsys)
  assert 'data.packing=True' in words


@pytest.mark.slow
def test_a_policy_learns_from_packed_rows(rows, tmp_path):
  config = {
    'objective__name': 'next_token',
    'head__kind': 'lm',
    'policy__train_on': 'all',
    'data__label': 'on_track',
  }
  assert run(argv(tmp_path, rows, **config)) == 0
  assert results(tmp_path)['counters']['train/rows_used'] == 30
