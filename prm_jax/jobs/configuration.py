"""The border between the command line and typed code.

`parse` turns arguments into a locked ConfigDict, and every mistake on the way
into one sentence. `build` turns a section of it into a frozen dataclass; library
code sees only those.
"""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags

from prm_jax.errors import UserError

T = TypeVar('T')
USAGE = (
  'usage: python -m prm_jax.main --config=configs/NAME.py [--workdir=DIR] '
  '[--config.key=value ...]'
)


@dataclasses.dataclass(frozen=True)
class Command:
  """A parsed command line.

  Attributes:
    config: locked ConfigDict with overrides applied.
    workdir: where the job leaves its files.
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
  values = flags.FlagValues()
  config_flag = config_flags.DEFINE_config_file(
    'config', None, 'Config file.', lock_config=True, flag_values=values,
    sys_argv=list(argv),
  )  # fmt: skip
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  file = _config_file(argv)
  # Config files import their base as `configs.NAME`, from wherever they are run.
  root = str(Path(file.partition('.py')[0]).resolve().parent.parent)
  if root not in sys.path:
    sys.path.insert(0, root)
  try:
    rest = values(list(argv), known_only=False)
  except UserError:
    raise
  except flags.UnrecognizedFlagError as e:
    raise UserError(_unknown(e, values)) from e
  except FileNotFoundError as e:
    raise UserError(f'{file}: {e}.') from e
  except Exception as e:  # config files and absl raise many types on bad input
    raise UserError(f'{file}: {_first_line(e)} ({USAGE}).') from e
  if rest[1:]:
    raise UserError(f'unexpected argument {rest[1]!r}; {USAGE}.')
  try:
    config = config_flag.value
    overrides = dict(config_flags.get_override_values(values['config']))
  except Exception as e:
    raise UserError(f'{file}: {_first_line(e)}.') from e
  if not isinstance(config, ConfigDict) or 'job' not in config:
    raise UserError(f'{file}: get_config() must return the ConfigDict of base.py.')
  workdir = values['workdir'].value or f'runs/{_stem(file)}'
  line = shlex.join(['python', '-m', 'prm_jax.main', *argv[1:]])
  if values['workdir'].value is None:
    line += f' --workdir={workdir}'
  return Command(config, workdir, overrides, line)


def _config_file(argv: Sequence[str]) -> str:
  for i, word in enumerate(argv[1:], start=1):
    if word.startswith('--config='):
      name = word.removeprefix('--config=')
      break
    if word == '--config' and i + 1 < len(argv):
      name = argv[i + 1]
      break
  else:
    raise UserError(f'--config is missing; {USAGE}.')
  path = name.rsplit(':', 1)[0] if '.py:' in name else name
  if not Path(path).is_file():
    known = sorted(str(p) for p in Path('configs').glob('*.py'))
    near = difflib.get_close_matches(path, known, n=1)
    hint = f'did you mean {near[0]}?' if near else 'give the path of a config file.'
    raise UserError(f'--config={path}: no such file; {hint}')
  return name


def _stem(file: str) -> str:
  path, _, arg = file.partition('.py:')
  return Path(path).stem + (f'_{arg.split(",")[0]}' if arg else '')


def _first_line(error: BaseException) -> str:
  lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
  return (lines[-1] if lines else type(error).__name__).rstrip('.')


def _unknown(error: flags.UnrecognizedFlagError, values: flags.FlagValues) -> str:
  name = error.flagname
  if name.startswith('config.'):
    return f'unknown config key {name.removeprefix("config.")!r}; {_near(name, values)}'
  return f'unknown flag --{name}; {USAGE}.'


def _near(name: str, values: flags.FlagValues) -> str:
  known = [n for n in values if n.startswith('config.')]
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  if near:
    return f'did you mean {near[0].removeprefix("config.")!r}?'
  return 'configs/base.py lists all keys.'


def build(cls: type[T], section: ConfigDict, **more: Any) -> T:
  """A frozen dataclass from the config keys that bear its fields' names.

  Every key of `section` must be a field of `cls`; `more` sets fields that are not
  config keys.

  Raises:
    UserError: a key is no field, or the class refuses a value.
  """
  names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  held = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in section.items()}
  for key in held:
    if key not in names:
      raise UserError(f'config key {key!r} is no field of {cls.__name__}.')
  try:
    return cls(**{**held, **more})
  except (TypeError, ValueError) as e:
    raise UserError(f'config of {cls.__name__}: {_first_line(e)}.') from e


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
