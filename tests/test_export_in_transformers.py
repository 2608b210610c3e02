"""Exported folders give the same outputs after loading in transformers.

Runs `compare_with_transformers.py` with the interpreter PRM_JAX_TORCH_PYTHON, or with
this one, and skips where that has no torch or transformers.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import export_cases
import numpy as np
import pytest

from prm_jax.interop import saving
from prm_jax.models import decoder, heads, lm
from prm_jax.specs import ScorerSpec

SCRIPT = Path(__file__).parent / 'compare_with_transformers.py'
PYTHON = os.environ.get('PRM_JAX_TORCH_PYTHON', sys.executable)


@functools.cache
def has_transformers() -> bool:
  code = 'import importlib.util as u; print(bool(u.find_spec("torch") and '
  code += 'u.find_spec("transformers")))'
  said = subprocess.run([PYTHON, '-c', code], capture_output=True, text=True)
  return said.stdout.strip() == 'True'


def compare(folder, spec, params):
  if not has_transformers():
    pytest.skip(f'{PYTHON} has no torch and transformers; set PRM_JAX_TORCH_PYTHON')
  head = spec.head if isinstance(spec, ScorerSpec) else lm.HEAD
  ids = np.random.default_rng(1).integers(0, 256, (2, 20)).astype(np.int32)
  hidden = decoder.forward(spec.model, params['decoder'], ids)
  outputs = heads.read(spec.model, head, params, hidden)
  case = {
    'input_ids': ids.tolist(),
    'outputs': np.asarray(outputs).tolist(),
    'label_tokens': list(head.label_tokens),
  }
  (folder / 'case.json').write_text(json.dumps(case))
  said = subprocess.run(
    [PYTHON, str(SCRIPT), str(folder), str(folder / 'case.json')],
    capture_output=True, text=True, env={**os.environ, 'HF_HUB_OFFLINE': '1'},
  )  # fmt: skip
  assert said.returncode == 0, said.stdout + said.stderr[-2000:]
  told = json.loads(said.stdout.splitlines()[-1])
  assert told['spread'] > 0.05
  print(told)


CASES = [
  ('qwen2', 'linear2'), ('qwen2', 'mlp'), ('qwen3', 'scalar'),
  ('llama', 'label_tokens'), ('llama', 'no_bias'), ('mistral', 'linear3'),
  ('gemma2', 'label_tokens'),
  ('gemma2', 'linear2'), ('gemma3_text', 'linear2'), ('gemma3_text', 'label_tokens'),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('family, head', CASES)
def test_scorer(family, head, tmp_path):
  spec = export_cases.scorer(family, head)
  params = export_cases.random(spec.model, spec.head)
  layout = 'vllm' if head == 'mlp' else 'transformers'
  saving.save(tmp_path, spec, params, export_cases.BYTES, layout=layout)
  compare(tmp_path, spec, params)


@pytest.mark.slow
@pytest.mark.parametrize('family', export_cases.FAMILIES)
def test_policy(family, tmp_path):
  spec = export_cases.policy(family, scan_layers=True)
  params = export_cases.random(spec.model, lm.HEAD)
  saving.save(
    tmp_path, spec, params, export_cases.BYTES, family=family, largest_file=6000
  )
  compare(tmp_path, spec, params)
