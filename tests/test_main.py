"""Flags, config files, exit codes: a user's mistake is one sentence and code 2."""

import json
import runpy
import subprocess
import sys

import pytest
import tiny_runs
from tiny_runs import BASE, ROOT

from prm_jax import errors, jobs
from prm_jax.jobs import configuration

ECHO = 'prm_jax: python -m prm_jax.main'


def sentence(words, capsys):
  """What `main` says on standard error; nothing goes to standard out."""
  capsys.readouterr()
  assert tiny_runs.run(['prm_jax', *words]) == 2
  captured = capsys.readouterr()
  said = [x for x in captured.err.splitlines() if not x.startswith(ECHO)]
  assert len(said) == 1, captured.err
  assert said[0].startswith('prm_jax: ') and not captured.out
  return said[0].removeprefix('prm_jax: ')


@pytest.mark.parametrize(
  'words, expected',
  [
    ([], ('--config is missing', 'usage: python -m prm_jax.main')),
    (['--config'], ('--config is missing',)),
    (['--config='], ('--config is missing',)),
    (['--config=configs/nothing.py'], ('configs/nothing.py', 'no such file')),
    (['--config=configs/pqn.py'], ('no such file', 'did you mean configs/pqm.py?')),
    (['--config=README.md'], ('README.md', 'no Python file')),
    ([f'--config={BASE}', f'--config={BASE}'], ('2 times',)),
    ([f'--config={BASE}', '--wrokdir=x'], ('unknown flag --wrokdir', 'usage')),
    ([f'--config={BASE}', '--flagfile=nothing'], ('flagfile', 'nothing')),
    ([f'--config={BASE}', 'stray'], ("'stray'", 'usage')),
    ([f'--config={BASE}', '--config.job=trian'], ("'trian'", 'train, rollout, label')),
  ],
)
def test_mistakes_on_the_command_line(words, expected, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  said = sentence(words, capsys)
  for part in expected:
    assert part in said


@pytest.mark.parametrize(
  'word, expected',
  [
    ('train.stepps=3', ("'train.stepps'", "did you mean 'train.steps'?")),
    ('trian.steps=3', ("'trian.steps'", "did you mean 'train.steps'?")),
    ('batch_size=0', ("'batch_size'", "did you mean 'train.batch_size'?")),
    ('zzzzzzzz=0', ("'zzzzzzzz'", 'configs/base.py')),
    ('train=3', ("'train' is a section", 'train.accumulation')),
    ('workdir=x', ('give --workdir=DIR',)),
    ('input=donn\udce9es.jsonl', (r"input='donn\udce9es.jsonl': not valid UTF-8",)),
    ('train.steps=None', ('train.steps=None', 'a whole number')),
    ('train.steps=1.5', ('train.steps=1.5', 'a whole number')),
    ('train.steps=abc', ('train.steps=abc', 'a whole number')),
    ('train.steps=', ('train.steps=', 'a whole number')),
    ('train.steps', ('config.train.steps', 'Missing value')),
    ('world.slip_rate=much', ('world.slip_rate=much', 'a number')),
    ('objective.margin=x', ('objective.margin=x', 'give')),
    ('study.trials=a=1 b=2', ('study.trials=a=1 b=2', 'quotes')),
    ('report=maybe', ('report=maybe', 'true or false')),
    ('optimizer.peak_lr=nan', ('optimizer.peak_lr=nan', 'finite')),
    ('optimizer.eps=inf', ('optimizer.eps=inf', 'finite')),
    ('train.batch_size=0', ('train.batch_size=0', 'at least 1')),
    ('train.steps=0', ('train.steps=0', 'at least 1')),
    ('train.accumulation=-1', ('train.accumulation=-1', 'at least 1')),
    ('logging.every_steps=0', ('logging.every_steps=0', 'at least 1')),
  ],
)
def test_mistakes_in_config_keys(word, expected, capsys, tmp_path):
  work = tmp_path / 'work'
  said = sentence([f'--config={BASE}', f'--workdir={work}', f'--config.{word}'], capsys)
  for part in expected:
    assert part in said
  assert not work.exists()


@pytest.mark.parametrize(
  'overrides, expected',
  [
    ({'train__batch_size': 12}, ('batch_size = 12', '8 device groups', 'of 8')),
    (
      {'train__accumulation': 3},
      ('batch_size = 8', '3 microbatches', 'multiple of 24'),
    ),
    ({'parallel__tensor': 3}, ('parallel', '8 devices')),
    ({'parallel__tensor': 4}, ('parallel.tensor = 4', 'model.n_heads = 2')),
    ({'parallel__mapper': 'vmap'}, ('parallel.mapper', "'vmap'", 'jit', 'pmap')),
    ({'objective__name': 'bec'}, ("'bec'", 'bce')),
    ({'objective__margin': 2}, ("'bce'", "'margin'")),
    ({'head__kind': 'cubic'}, ('cubic', 'scalar')),
    ({'model__activation': 'relu6'}, ('relu6', 'silu')),
    ({'optimizer__schedule': 'saw'}, ('saw', 'cosine')),
    ({'optimizer__peak_lr': -1}, ('optimizer.peak_lr', '-1')),
    ({'optimizer__no_decay': '(1,)'}, ('no_decay=(1,)', 'a text at each place')),
    ({'model__windowed_layers': '("a",)'}, ('windowed_layers', 'True or False')),
    ({'model__rope_scaling': '("linear", "a")'}, ('rope_scaling', 'numbers')),
    (
      {
        'objective__name': 'pinball',
        'head__kind': 'linear',
        'head__n_outputs': 3,
        'objective__levels': '("a", 0.5, 0.9)',
      },
      ("levels=('a', 0.5, 0.9)", 'rising'),
    ),
    ({'format__truncation': 'fold'}, ('truncation', 'fold', 'drop_example')),
    ({'format__max_length': 0}, ('max_length', '0')),
    ({'format__step_template': 'x'}, ('step_template', '{step}')),
    ({'world__shared_belief': '1'}, ('shared_belief',)),
    ({'train__use': 'first'}, ('train.use', "'first'", 'last', 'best')),
    ({'seed': -1}, ('seed=-1',)),
    ({'checkpoint__keep_last': 0}, ('checkpoint.keep_last', '0')),
    ({'checkpoint__best_mode': 'mid'}, ('checkpoint.best_mode', 'mid')),
    ({'profile': 'abc'}, ("profile='abc'", 'START:STOP')),
    ({'objective__unit': 'solution'}, ("objective.unit='solution'", 'trajectory')),
    ({'objective__threshold': 5}, ('objective.threshold is 5', 'at most 1')),
    ({'objective__name': 'q_ranking', 'objective__margin': -1}, ('margin is -1',)),
    ({'objective__name': 'td', 'objective__n_steps': 0}, ('objective.n_steps is 0',)),
    ({'objective__name': 'td', 'objective__shaping': 'sine'}, ("shaping='sine'",)),
    ({'evaluate__suite': 'processbench'}, ('training does not', 'evaluate.py:suite')),
    ({'evaluate__calibrate': 'platt'}, ('training does not', 'calibrate.py')),
    ({'profile': '5:5'}, ("profile='5:5'", 'STOP')),
    ({'profile': '900:910'}, ('profile=900:910', 'train.steps')),
    ({'model__rope_theta': 0}, ('model.rope_theta is 0',)),
    ({'model__norm_eps': -1}, ('model.norm_eps is -1',)),
    ({'tokenizer': 'nowhere.json'}, ('nowhere.json',)),
    ({'evaluate__threshold': 'guessed'}, ('guessed', 'tuned')),
    ({'evaluate__reduction': 'mode'}, ('mode', 'min')),
    ({'evaluate__ties': 'coin'}, ('coin', 'uniform')),
    ({'evaluate__resamples': -1}, ('resamples', '-1')),
    ({'data__train': 'nowhere.jsonl'}, ('nowhere.jsonl', 'no such file')),
    ({'data__train': 'world:trian'}, ("'trian'", 'train')),
    ({'data__train': 'x.jsonl:nothing'}, ("'nothing'", 'format')),
    ({'data__train': 'world:train@0'}, ('weight',)),
    ({'data__train': ''}, ('data.train: no data source is named',)),
    (
      {'data__train': '', 'data__validation_share': 0.1, 'data__validation': ''},
      ('data.train: no data source is named',),
    ),
    ({'data__label': 'nothing'}, ("'nothing'", 'on_track')),
    ({'data__truth': 'nothing'}, ("'nothing'",)),
    ({'data__limit': -1}, ('data.limit', '-1')),
    ({'data__leak': 'maybe'}, ('data.leak', 'maybe', 'drop')),
    ({'data__evaluate': 'validation=world:heldout'}, ('validation', 'NAME=path')),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_values_that_do_not_fit_each_other(overrides, expected, capsys, tmp_path):
  """Each is refused before the first step, and the workdir stays free."""
  work = tmp_path / 'work'
  said = tiny_runs.refusal(tiny_runs.arguments(work, **overrides), capsys)
  for part in expected:
    assert part in said, said
  assert not (work / 'metrics.jsonl').exists()


CONFIG_FILES = {
  'def get_config(:\n  pass\n': (':1:', 'invalid syntax'),
  'x = 1\n': ('no get_config()',),
  'def get_config():\n  return 3\n': ('ConfigDict',),
  'def get_config():\n  raise RuntimeError("no\\nluck")\n': (':2', 'no luck'),
  'import nothing_like_this\n': (':1', 'nothing_like_this'),
  'import sys\nsys.exit("bye")\n': (':2', 'bye'),
  'from configs import base\ndef get_config():\n  c = base.get_config()\n'
  '  c.trian = 1\n  c.lock()\n  c.nope = 2\n  return c\n': (':6', 'nope'),
}


@pytest.mark.parametrize('text', CONFIG_FILES)
def test_config_files_that_cannot_be_used(text, capsys, tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(text)
  said = sentence([f'--config={file}'], capsys)
  assert str(file) in said
  for part in CONFIG_FILES[text]:
    assert part in said


def test_help_names_the_jobs(capsys):
  for words in (['--help'], ['-h'], [f'--config={BASE}', '--help']):
    assert tiny_runs.run(['prm_jax', *words]) == 0
    out = capsys.readouterr().out
    assert 'usage: python -m prm_jax.main' in out
    for job in jobs.JOBS:
      assert f'\n  {job} ' in out


def test_command_line_becomes_a_locked_config(monkeypatch):
  monkeypatch.chdir(ROOT)
  command = configuration.parse(
    ['x', '--config', 'configs/pqm.py', '--config.train.steps=7', '--noconfig.report',
     '--config.optimizer.peak_lr=1e-4', '--config.study.seeds=(3,4)',
     '--config.objective.margin=2', "--config.input=a b"]
  )  # fmt: skip
  config = command.config
  assert config.train.steps == 7 and config.report is False
  assert config.optimizer.peak_lr == 1e-4 and config.objective.margin == 2.0
  assert config.study.seeds == (3, 4)
  assert command.workdir == 'runs/pqm'
  assert command.line.endswith("'--config.input=a b' --workdir=runs/pqm")
  assert command.overrides['train.steps'] == 7
  with pytest.raises(AttributeError):
    config.train.stepps = 3
  flat = configuration.flatten(config)
  assert list(flat) == sorted(flat) and json.loads(json.dumps(flat)) == flat


def test_none_resets_what_has_no_value_in_the_base(monkeypatch):
  monkeypatch.chdir(ROOT)
  words = ['x', '--config=configs/pqm.py', '--config.objective.margin=None']
  command = configuration.parse(words)
  assert command.config.objective.margin is None
  assert command.overrides == {'objective.margin': None}
  assert command.line.endswith('margin=None --workdir=runs/pqm')
  command = configuration.parse([*words, '--config.objective.margin=2'])
  assert command.config.objective.margin == command.overrides['objective.margin'] == 2
  command = configuration.parse([*words[:2], '--config.objective.margin=2', words[2]])
  assert command.config.objective.margin is None


def test_the_home_folder_in_paths(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('HOME', '/home/me')
  keys = {
    'output': '~/x.jsonl',
    'data.train': '~/a.jsonl:trl@2,b=~/b.jsonl,c~/d',
    'score_files': 'pool:prm=~/s.json',
    'format.marker': '~/',
  }
  words = [f'--config.{k}={v}' for k, v in keys.items()]
  found = configuration.parse(['', f'--config={BASE}', '--workdir=~/run', *words])
  assert found.workdir == '/home/me/run'
  assert found.config.output == '/home/me/x.jsonl'
  assert found.config.data.train == ('/home/me/a.jsonl:trl@2,b=/home/me/b.jsonl,c~/d')
  assert found.config.score_files == 'pool:prm=/home/me/s.json'
  assert found.config.format.marker == '~/'  # a text, no path
  assert '--workdir=~/run' in found.line


def test_config_file_takes_an_argument(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  file = tmp_path / 'mine.py'
  file.write_text(
    'from configs import base\n\n'
    'def get_config(name):\n  c = base.get_config()\n  c.data.label = name\n'
    '  return c\n'
  )
  command = configuration.parse(['x', f'--config={file}:value,2'])
  assert command.config.data.label == 'value,2'
  assert command.workdir == 'runs/mine_value'


@pytest.mark.parametrize(
  'name', sorted(p.name for p in (ROOT / 'configs').glob('[a-z]*.py'))
)
def test_shipped_configs_parse(name, monkeypatch):
  """Their keys are those of base.py, and their docstrings hold a command."""
  monkeypatch.chdir(ROOT)
  command = configuration.parse(['x', f'--config=configs/{name}'])
  base = configuration.parse(['x', '--config=configs/base.py'])
  flat = configuration.flatten(command.config)
  assert set(flat) == set(configuration.flatten(base.config))
  assert command.config.job in jobs.JOBS
  assert runpy.run_path(str(ROOT / 'configs' / name))['__doc__']


@pytest.mark.parametrize(
  'error, code',
  [
    (errors.UserError('one thing.'), 2),
    (errors.NonFiniteLoss('one thing.'), 3),
    (errors.Preempted('one thing.'), 75),
    (KeyboardInterrupt(), 130),
  ],
)
def test_exit_codes(error, code, monkeypatch, capsys):
  def raises(command):
    raise error

  monkeypatch.setattr(jobs, 'run', raises)
  assert tiny_runs.run(['x', f'--config={BASE}']) == code
  assert 'Traceback' not in capsys.readouterr().err


def test_our_own_fault_keeps_its_traceback(monkeypatch):
  def raises(command):
    raise RuntimeError('ours')

  monkeypatch.setattr(jobs, 'run', raises)
  with pytest.raises(RuntimeError):
    tiny_runs.run(['x', f'--config={BASE}'])


@pytest.mark.parametrize(
  'words, code, expected',
  [
    (['--config.train.stepps=3'], 2, "did you mean 'train.steps'?"),
    (['--config.job=tokenizer'], 2, 'tokenizer needs --config.input'),
  ],
)
def test_real_process(words, code, expected):
  done = subprocess.run(
    [sys.executable, '-m', 'prm_jax.main', '--config=configs/pqm.py', *words],
    capture_output=True, text=True, cwd=ROOT, env=tiny_runs.environment(),
    timeout=120, check=False,
  )  # fmt: skip
  assert done.returncode == code and not done.stdout
  said = [x for x in done.stderr.splitlines() if not x.startswith(ECHO)]
  assert len(said) == 1 and expected in said[0]
