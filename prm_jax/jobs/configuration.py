"""The border between the command line and typed code.

`parse` turns arguments into a locked ConfigDict, and every mistake on the way
into one sentence. `build` turns a section of it into a frozen dataclass; library
code sees only those.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import runpy
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

from prm_jax import field_types, jsonl
from prm_jax.errors import UserError

T = TypeVar('T')
USAGE = (
  'usage: python -m prm_jax.main --config=configs/NAME.py [--workdir=DIR] '
  '[--config.key=value ...]'
)
_OVERRIDE = re.compile(r'--?(?:no)?config\.([^=]*)')
_ILLEGAL = re.compile(r'flag --config\.([\w.]+)=')
# Keys of paths, some of several with commas, some behind NAME=. A shell leaves the `~`
# of --key=~/x as it is, and a folder of that name must not come about here.
_PATHS = (
  'a', 'audit.labelled', 'audit.reference', 'b', 'bench_model', 'contamination.run',
  'data.cache_dir', 'data.evaluate', 'data.pools', 'data.train', 'data.validation',
  'engine.policy', 'input', 'model.init_from', 'output', 'peer_dump', 'score_files',
  'scorer', 'scorer_reference', 'tokenizer',
)  # fmt: skip
_HOME = re.compile(r'(?<![^=,\s])~(?=/)')
_TYPES = {
  int: 'a whole number',
  float: 'a number',
  bool: 'true or false',
  str: 'a text',
  list: 'a tuple with each text in quotes, such as \'("a", "b")\'',
}


@dataclasses.dataclass(frozen=True)
class Command:
  """A parsed command line.

  Attributes:
    config: locked ConfigDict with overrides applied.
    workdir: where the job leaves its files; in it and in paths of the config `~/` is
      the home folder.
    overrides: {'train.steps': '100', ...} as typed.
    line: the whole command, ready to be typed again.
  """

  config: ConfigDict
  workdir: str
  overrides: dict[str, Any]
  line: str


def parse(argv: Sequence[str]) -> Command:
  """Parses `argv` (argv[0] is the program).

  Raises:
    UserError: no or unreadable config file, unknown flag or key, a value of the
      wrong type.
  """
  file, rest = _config_file(argv)
  config = _load(file)
  known = flatten(config)
  for word in rest[1:]:
    if found := _OVERRIDE.match(word):
      _check_key(found[1], known)
  rest, unset = _unset(config, rest)
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  try:
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, lock_config=True, sys_argv=rest
    )
    positional = values(rest, known_only=False)[1:]
  except flags.UnrecognizedFlagError as e:
    raise UserError(f'unknown flag --{e.flagname}; {USAGE}.') from e
  except Exception as e:  # absl and ml_collections raise many types on bad values
    raise UserError(_wrong_value(e, known, rest)) from e
  if positional:
    raise UserError(f'unexpected argument {positional[0]!r}; {USAGE}.')
  for key, value in flatten(config).items():
    if isinstance(value, str) and not jsonl.is_text(value):
      raise UserError(f'config key {key}={value!a}: not valid UTF-8; rename the file.')
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'config key {key}={value}: give a finite number.')
    if key in _PATHS and isinstance(value, str):
      config.update_from_flattened_dict({key: _at_home(value)})
  overrides = dict(config_flags.get_override_values(values['config'])) | unset
  given = values['workdir'].value
  if given and not jsonl.is_text(given):
    raise UserError(f'--workdir={given!a}: not valid UTF-8; give another name.')
  workdir = _at_home(given) if given else f'runs/{_stem(file)}'
  line = shlex.join(['python', '-m', 'prm_jax.main', *argv[1:]])
  return Command(
    config, workdir, overrides, line if given else f'{line} --workdir={workdir}'
  )


def _at_home(paths: str) -> str:
  """Paths in which `~/` is the home folder."""
  return _HOME.sub(lambda _: str(Path.home()), paths)


def _config_file(argv: Sequence[str]) -> tuple[str, list[str]]:
  """The value of --config, and `argv` without it."""
  rest: list[str] = []
  given: list[str] = []
  words = iter(argv)
  for word in words:
    if word.startswith('--config='):
      given.append(word.removeprefix('--config='))
    elif word == '--config':
      given.append(next(words, ''))
    else:
      rest.append(word)
  if not given or not given[-1]:
    raise UserError(f'--config is missing; {USAGE}.')
  if len(given) > 1:
    raise UserError(f'--config is given {len(given)} times; give one config file.')
  path = _path(given[0])[0]
  if not path.is_file() or path.suffix != '.py':
    known = sorted(str(p) for p in Path('configs').glob('*.py'))
    near = difflib.get_close_matches(str(path), known, n=1)
    hint = f'did you mean {near[0]}?' if near else 'give the path of a config file.'
    what = 'no Python file' if path.is_file() else 'no such file'
    raise UserError(f'--config={path}: {what}; {hint}')
  return given[0], rest


def _path(name: str) -> tuple[Path, list[str]]:
  """Path and argument of FILE.py or FILE.py:ARGUMENT."""
  stem, found, argument = name.partition('.py:')
  return (Path(f'{stem}.py'), [argument]) if found else (Path(name), [])


def _load(name: str) -> ConfigDict:
  """What get_config() of the config file returns."""
  path, arguments = _path(name)
  # Config files import their base as `configs.NAME`, from wherever they are run.
  root = str(path.resolve().parent.parent)
  if root not in sys.path:
    sys.path.insert(0, root)
  try:
    config = runpy.run_path(str(path))['get_config'](*arguments)
  except UserError:
    raise
  except SyntaxError as e:
    raise UserError(f'{e.filename}:{e.lineno}: {e.msg}; mend the config file.') from e
  except (Exception, SystemExit) as e:
    if isinstance(e, KeyError) and e.args == ('get_config',):
      raise UserError(
        f'{path}: it defines no get_config(); see configs/base.py.'
      ) from e
    own = [f for f in traceback.extract_tb(e.__traceback__) if f.filename == str(path)]
    raise UserError(
      f'{path}{f":{own[-1].lineno}" if own else ""}: the config file cannot be used '
      f'({type(e).__name__}: {_one_line(e)}); mend it.'
    ) from e
  if not isinstance(config, ConfigDict) or 'job' not in config:
    raise UserError(f'{path}: get_config() must return the ConfigDict of base.py.')
  return config


def _stem(file: str) -> str:
  path, arguments = _path(file)
  return '_'.join([path.stem, *(a.split(',')[0] for a in arguments)])


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split()).rstrip('.')


def _unset(
  config: ConfigDict, words: Sequence[str]
) -> tuple[list[str], dict[str, None]]:
  """Takes KEY=None out of the words, for keys that are placeholders in the base.

  The parser of flags reads a value by the type of its key, and None is of none.

  Returns:
    The words that are left, and the keys that stay None.
  """
  places = {
    f'{section}.{key}'
    for section, held in config.items()
    if isinstance(held, ConfigDict)
    for key, value in held.items(preserve_field_references=True)
    if isinstance(value, FieldReference)
  }
  left: list[tuple[str, str]] = []
  unset: dict[str, None] = {}
  for word in words:
    found = _OVERRIDE.match(word)
    key = found[1] if found else ''
    unset.pop(key, None)
    if key in places and word.endswith('=None'):
      left = [held for held in left if held[0] != key]
      config.update_from_flattened_dict({key: None})
      unset[key] = None
    else:
      left.append((key, word))
  return [word for _, word in left], unset


def _check_key(key: str, known: Mapping[str, Any]) -> None:
  if key in known:
    return
  if key == 'workdir':
    raise UserError('the workdir is no config key; give --workdir=DIR.')
  inside = [k for k in known if k.startswith(f'{key}.')]
  if inside:
    raise UserError(
      f'config key {key!r} is a section; set its keys, for example {inside[0]}.'
    )
  near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
  hint = f'did you mean {near[0]!r}?' if near else 'configs/base.py lists all keys.'
  raise UserError(f'unknown config key {key!r}; {hint}')


def _wrong_value(
  error: Exception, known: Mapping[str, Any], words: Sequence[str]
) -> str:
  text = _one_line(error)
  found = _ILLEGAL.match(text)
  if found is None or found[1] not in known:
    return f'{text}; {USAGE}.'
  key = found[1]
  given = [w.partition('=')[2] for w in words if w.partition('=')[0].endswith(key)]
  wanted = _TYPES.get(type(known[key]), 'a value of the type that it has')
  return f'config key {key}={given[-1]}: give {wanted}; configs/base.py says more.'


def build(cls: type[T], name: str, section: Mapping[str, Any], /, **more: Any) -> T:
  """A frozen dataclass from the config keys that bear its fields' names.

  Args:
    cls: the dataclass.
    name: of the config's section, for sentences that name a key.
    section: its keys, all of them fields of `cls`.
    **more: fields that are not config keys.

  Raises:
    UserError: a key is no field, a value is not of the field's type, or the class
      refuses it.
  """
  names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  held = {
    k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in section.items()
  }
  for key in held:
    if key not in names:
      raise UserError(f'config key {name}.{key}: {cls.__name__} has no such field.')
  field_types.check(f'{name}.', cls, held)
  try:
    return cls(**{**held, **more})
  except (TypeError, ValueError) as e:
    raise UserError(f'config section {name}: {_one_line(e)}.') from e


def flatten(config: ConfigDict) -> dict[str, Any]:
  """{'train.steps': 100, ...}: JSON-ready, tuples as lists, keys sorted."""
  out: dict[str, Any] = {}

  def walk(prefix: str, section: ConfigDict) -> None:
    for key, value in section.items():
      name = f'{prefix}{key}'
      if isinstance(value, ConfigDict):
        walk(name + '.', value)
      else:
        out[name] = list(value) if isinstance(value, tuple) else value

  walk('', config)
  return dict(sorted(out.items()))
