"""Keys that every job refuses before it opens anything."""

import re

import pytest
from tiny_runs import ROOT, arguments, refusal

from prm_jax.evaluation import hack_tokens
from prm_jax.jobs import checks
from prm_jax.jobs.configuration import flatten, parse

REFUSED = (
  ('bank', {'adaptive__confidence': '(1.0,)'}, 'adaptive.confidence=(1.0,): give'),
  ('bank', {'adaptive__confidence': '(0.9, 0.5)'}, 'in rising order'),
  ('bank', {'adaptive__confidence': '("a",)'}, "adaptive.confidence=('a',)"),
  ('bank', {'adaptive__stable': '(0.99999991, 0.99999992)'}, 'name each once'),
  ('bank', {'bank__most': -1}, 'bank.most=-1: it must be at least 0'),
  ('bank', {'bank__reductions': '("min", "sum")'}, "bank.reductions='sum'"),
  ('bank', {'bank__reductions': '()'}, 'bank.reductions='),
  ('bank', {'bank__reductions': '("min", "min")'}, 'bank.reductions=min, min'),
  ('bank', {'evaluate__subsets': 0}, 'evaluate.subsets=0'),
  ('bank', {'evaluate__seed': -1}, 'evaluate.seed=-1'),
  ('compare', {'compare__flips': 0}, 'compare.flips=0'),
  ('compare', {'evaluate__resamples': 0}, 'evaluate.resamples=0'),
  ('calibrate', {'adaptive__orders': 0}, 'adaptive.orders=0'),
  ('evaluate', {'evaluate__ties': 'uniform,uniform'}, 'uniform, uniform: name each'),
  ('evaluate', {'evaluate__threshold': 'fixed:0.5, fixed:0.5'}, 'name each once'),
  ('search', {'evaluate__subsets': 0}, 'evaluate.subsets=0'),
  ('search', {'search__policy_parameters': -5}, 'search.policy_parameters=-5'),
  ('audit', {'audit__streams': 0}, 'audit.streams=0'),
  ('audit', {'audit__tau': 1.5}, 'audit.tau=1.5'),
  ('hackability', {'hack__places': '("step", "step")'}, 'hack.places=step, step'),
  ('bench', {'bench_pairs': 0}, 'bench_pairs=0'),
  ('label', {'label__prior': '(1.0,)'}, 'label.prior=(1.0,) must be a tuple of 2'),
  ('label', {'label__prior': '("a", 1)'}, 'with a number at each place'),
  ('label', {'label__algorithm': 'adaptive', 'label__dead': '(1,)'}, 'label.dead=(1,)'),
  ('study_noise', {'study__seeds': '()'}, 'study.seeds=()'),
  ('study_noise', {'study__seeds': '(1, 1)'}, 'study.seeds=(1, 1)'),
  ('study_noise', {'study__seeds': '("a",)'}, 'a whole number at each place'),
  ('study_noise', {'study__methods': '(1,)'}, 'study.methods=(1,) must be a tuple'),
  ('study_noise', {'study__methods': '("a=b.py \'x",)'}, 'No closing quotation'),
  ('study_noise', {'study__methods': '("a=b.py", "a=c.py")'}, 'a name of its own'),
  ('study_noise', {'study__settings': '("s: \'x",)'}, 'study.settings'),
  ('study_noise', {'study__trials': '("\'x",)'}, 'study.trials'),
  ('study_noise', {'study__common': "'x"}, 'study.common'),
  ('bce', {'parallel__mapper': 'pmap', 'parallel__fsdp': 2}, 'parallel.mapper=pmap'),
  ('bce', {'parallel__mapper': 'pmap', 'parallel__tensor': 2}, 'tensor=2 would split'),
)  # fmt: skip


@pytest.mark.parametrize('name, changes, expected', REFUSED)
def test_refused_before_any_work(name, changes, expected, tmp_path, capsys):
  config = str(ROOT / 'configs' / f'{name}.py')
  argv = arguments(tmp_path / 'work', config, tiny={}, **changes)
  assert expected in refusal(argv, capsys)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*.py')), ids=str)
def test_configs_pass(path):
  checks.check(parse(arguments(None, str(path), tiny={})).config)


def test_every_key_is_read():
  """No key without an effect: of each the sources hold the name."""
  sources = '\n'.join(p.read_text() for p in (ROOT / 'prm_jax').rglob('*.py'))
  words = set(re.findall(r'\w+', sources))
  config = parse(['', f'--config={ROOT / "configs" / "base.py"}']).config
  assert not {key for key in flatten(config) if key.split('.')[-1] not in words}


def test_one_list_of_places():
  assert checks.SETS['hack.places'] == hack_tokens.PLACES
