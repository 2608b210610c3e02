"""metrics.jsonl, TensorBoard and progress."""

import errno
import io
import json

import pytest
from etils import epath

from prm_jax import writer
from prm_jax.errors import UserError


def rows(folder):
  return [json.loads(x) for x in (folder / 'metrics.jsonl').read_text().splitlines()]


def filled(folder, steps):
  out = writer.MetricWriter(epath.Path(folder))
  for step in steps:
    out.write(step, {'train/loss': step / 2, 'time/rate': 3})
  out.close()
  return out


def test_appends_one_object_a_step(tmp_path):
  out = filled(tmp_path, [1])
  row = out.write(2, {'train/loss': float('nan'), 'b': float('inf')})
  out.close()
  assert row == {'step': 2, 'train/loss': None, 'b': None}
  assert rows(tmp_path) == [{'step': 1, 'train/loss': 0.5, 'time/rate': 3.0}, row]


def test_lines_are_on_disk_at_once(tmp_path):
  out = writer.MetricWriter(epath.Path(tmp_path))
  out.write(1, {'a': 1})
  assert len(rows(tmp_path)) == 1
  out.close()


def test_cut_keeps_what_is_up_to_the_step(tmp_path):
  filled(tmp_path, [1, 2, 3, 4])
  kept = writer.MetricWriter(epath.Path(tmp_path)).cut(2)
  assert [r['step'] for r in kept] == [1, 2] and rows(tmp_path) == kept


@pytest.mark.parametrize(
  'tail', ['{"step": 3, "lo', '3\n', '[]\n', '{"x": 1}\n', '\xff']
)
def test_cut_drops_what_a_kill_left_incomplete(tmp_path, tail):
  filled(tmp_path, [1, 2])
  with open(tmp_path / 'metrics.jsonl', 'ab') as f:
    f.write(tail.encode('latin-1'))
  out = writer.MetricWriter(epath.Path(tmp_path))
  assert [r['step'] for r in out.cut(9)] == [1, 2]
  out.write(3, {'a': 1})
  out.close()
  assert [r['step'] for r in rows(tmp_path)] == [1, 2, 3]


def test_cut_without_a_file(tmp_path):
  assert writer.MetricWriter(epath.Path(tmp_path)).cut(5) == []


@pytest.mark.parametrize('how', ['raises', 'half'])
def test_a_full_disk_is_one_sentence(how, tmp_path, monkeypatch):
  class Full(io.RawIOBase):
    def write(self, data):
      if how == 'raises':
        raise OSError(errno.ENOSPC, 'No space left on device')
      return len(data) // 2

  out = writer.MetricWriter(epath.Path(tmp_path))
  out._file = Full()
  with pytest.raises(UserError, match=r'metrics\.jsonl.*No space left'):
    out.write(1, {'a': 1})


def test_tensorboard_events(tmp_path):
  out = writer.MetricWriter(epath.Path(tmp_path), tensorboard=True)
  out.write(1, {'train/loss': 0.5, 'bad': float('nan')})
  out.close()
  events = list((tmp_path / 'tensorboard').iterdir())
  assert len(events) == 1 and b'train/loss' in events[0].read_bytes()
  assert b'bad' not in events[0].read_bytes()


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_without_a_terminal_is_quiet(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(writer.time, 'monotonic', lambda: now[0])
  with writer.Progress(100, 'train', done=10) as progress:
    for done in range(11, 101):
      now[0] += 1.0
      progress.to(done, 'loss 1')
  said = capsys.readouterr().err.splitlines()
  assert said == [
    'prm_jax: train 40/100, 60 s left  loss 1',
    'prm_jax: train 70/100, 30 s left  loss 1',
    'prm_jax: train 100/100, 0 s left  loss 1',
  ]


def test_progress_in_a_terminal_is_a_bar(monkeypatch, capsys):
  terminal = Terminal()
  monkeypatch.setattr(writer.sys, 'stderr', terminal)
  with writer.Progress(2, 'files') as progress:
    progress.to(2)
  assert 'files: 100%' in terminal.getvalue()


def test_an_error_stands_below_the_bar(monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(writer.sys, 'stderr', terminal)
  with pytest.raises(KeyError), writer.Progress(4, 'files') as progress:
    progress.to(1)
    raise KeyError
  assert terminal.getvalue().endswith('\n')


def test_progress_of_work_that_was_done_says_nothing(capsys):
  with writer.Progress(5, 'train', done=5):
    pass
  assert capsys.readouterr().err == ''
