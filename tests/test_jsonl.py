"""JSON lines: every kind of damage in one sentence; atomic and repeatable writing."""

import errno
import gzip
import io

import pytest

from prm_jax import jsonl
from prm_jax.errors import UserError


def lines(path):
  return list(jsonl.iter_json_lines(path))


def refused(path, data):
  path.write_bytes(data)
  with pytest.raises(UserError) as e:
    lines(path)
  assert '\n' not in str(e.value)
  return str(e.value)


DAMAGED = [
  (b'{"a": NaN}', 'the value NaN is not JSON; use null instead.'),
  (b'{"a": -Infinity}', 'the value -Infinity is not JSON; use null instead.'),
  (b'{"a": 1e999}', 'the number 1e999 is too large; use null instead.'),
  (b'{"a": "\xff"}', 'invalid UTF-8 at byte 7; save the file as UTF-8.'),
  (b'[1]', 'expected a JSON object, found list; each line must be one {...}.'),
  (
    b'{"a": 1',
    "not valid JSON (Expecting ',' delimiter, column 8); repair or delete the line.",
  ),
  (
    b'{"a": ["x", "\\ud800"]}',
    "field 'a[1]' holds the lone surrogate '\\ud800', which is half a character; "
    'repair the text.',
  ),
  (
    b'{"a": ' + b'[' * 260 + b']' * 260 + b'}',
    'nested more than 256 levels deep; a record is flat, so this is not one.',
  ),
  (
    b'{"a": ' + b'[' * 100_000 + b']' * 100_000 + b'}',
    'nested more than 256 levels deep; a record is flat, so this is not one.',
  ),
  (
    b'{"a": ' + b'9' * 5000 + b'}',
    'a whole number has too many digits; write it as a string.',
  ),
]


@pytest.mark.parametrize(('data', 'message'), DAMAGED, ids=range(len(DAMAGED)))
def test_damage_names_file_and_line(tmp_path, data, message):
  path = tmp_path / 'a.jsonl'
  assert refused(path, b'{"good": 1}\n\n' + data) == f'{path}:3: {message}'


@pytest.mark.parametrize('cut', [0, 5, 15, -8, -1])
def test_truncated_gzip(tmp_path, cut):
  data = gzip.compress(b''.join(b'{"a": %d}\n' % (i * i) for i in range(500)))
  message = refused(tmp_path / 'a.jsonl.gz', data[:cut])
  assert message.startswith(f'{tmp_path}/a.jsonl.gz: the gzip stream is damaged')
  assert message.endswith('copy or download the file again.')


def test_text_under_a_gzip_name(tmp_path):
  assert 'the gzip stream is damaged' in refused(tmp_path / 'a.jsonl.gz', b'{"a": 1}\n')


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_pass(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xe2\x80\xa8"}')
  assert lines(path) == [(1, {'a': 1}), (3, {'a': '\u2028'})]


def test_long_step_and_paired_surrogates_pass(tmp_path):
  path = tmp_path / 'a.jsonl'
  text = 'x' * 100_000
  path.write_text(f'{{"a": "{text}", "b": "\\ud83d\\ude00"}}')
  assert lines(path) == [(1, {'a': text, 'b': '😀'})]


def test_file_directory_and_pattern(tmp_path):
  for name in ('b.jsonl', 'a.jsonl.gz', 'notes.txt', 'c.json'):
    jsonl.write_bytes(tmp_path / name, b'')
  names = ['a.jsonl.gz', 'b.jsonl', 'c.json']
  assert [f.name for f in jsonl.expand(str(tmp_path))] == names
  assert [f.name for f in jsonl.expand(str(tmp_path / '[ab].jsonl*'))] == names[:2]
  assert [f.name for f in jsonl.expand(str(tmp_path / 'notes.txt'))] == ['notes.txt']
  with pytest.raises(UserError, match='no such file, directory of shards or pattern'):
    jsonl.expand(str(tmp_path / 'z*.jsonl'))


def test_equal_rows_give_equal_bytes(tmp_path):
  rows = [{'a': 'é漢', 'b': [1, 2.5, None]}]
  for name in ('a.jsonl.gz', 'b.jsonl.gz'):
    assert jsonl.write_json_lines(tmp_path / name, rows) == 1
  first = (tmp_path / 'a.jsonl.gz').read_bytes()
  assert first == (tmp_path / 'b.jsonl.gz').read_bytes()
  assert lines(tmp_path / 'a.jsonl.gz') == [(1, rows[0])]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / 'a.jsonl'
  path.write_text('before')

  def rows():
    yield {'a': 1}
    raise UserError('the second row is bad.')

  with pytest.raises(UserError):
    jsonl.write_json_lines(path, rows())
  with pytest.raises(ValueError):
    jsonl.write_json_lines(path, [{'a': float('nan')}])

  class Full(io.FileIO):
    def write(self, data):
      super().write(data[:1])
      raise OSError(28, 'No space left on device')

  place = type(jsonl.epath.Path(path))
  monkeypatch.setattr(place, 'open', lambda self, mode: Full(self, mode))
  with pytest.raises(UserError) as e:
    jsonl.write_json_lines(path, [{'a': 1}])
  assert str(e.value) == (
    f'{path}: cannot be written (No space left on device); choose another place or '
    'free some space.'
  )
  assert path.read_text() == 'before'
  assert [f.name for f in tmp_path.iterdir()] == ['a.jsonl']


def test_a_file_in_the_place_of_a_folder(tmp_path):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(UserError, match='cannot be written'):
    jsonl.write_json_lines(tmp_path / 'file' / 'a.jsonl', [{'a': 1}])


def test_a_name_that_is_not_text_is_refused(tmp_path):
  try:
    (tmp_path / 'donn\udce9es.jsonl').write_text('{}')
  except OSError as e:
    if e.errno != errno.EILSEQ:
      raise
    pytest.skip('this file system takes UTF-8 names alone')
  for path in (tmp_path, tmp_path / '*.jsonl'):
    with pytest.raises(UserError, match='is not valid UTF-8; rename the file') as e:
      jsonl.expand(str(path))
    assert 'donn' in str(e.value).encode().decode()
