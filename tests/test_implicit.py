"""Implicit PRMs: log-ratios of two language models, held against numpy."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny_tokenizers
from test_public_prms import ROOT
from test_public_prms import pytestmark as pytestmark

from configs import base
from prm_jax import step_values
from prm_jax.errors import UserError
from prm_jax.evaluation import compute
from prm_jax.formats.step_format import Encoded
from prm_jax.inference import api, implicit
from prm_jax.inference.implicit import ImplicitScorer
from prm_jax.interop import public
from prm_jax.jobs import searchers
from prm_jax.records import Trajectory

POLICY, REFERENCE = 'qwen2_untied', 'qwen2_tied'
OPTIONS = {'batch_tokens': 64, 'share_questions': False}


def folder_of(tmp_path, case):
  folder = tmp_path / case
  folder.mkdir(parents=True, exist_ok=True)
  for file in ('config.json', 'model.safetensors'):
    shutil.copyfile(ROOT / case / file, folder / file)
  specials = {'<|im_start|>': 300, '<|im_end|>': 301, '<last>': 319}
  return tiny_tokenizers.write(folder, specials=specials)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  tmp_path = tmp_path_factory.mktemp('implicit')
  return {case: folder_of(tmp_path, case) for case in (POLICY, REFERENCE)}


@pytest.fixture(scope='module')
def policy(folders):
  return public.load_scorer(folders[POLICY], adapter='eurus')


def make(policy, folders, reference=REFERENCE, **options):
  spec, params, words, _ = policy
  load, about = public.language_model(folders[reference])
  options = {'reference_hash': about.digest, **OPTIONS, **options}
  return ImplicitScorer(spec, params, words, reference=load, **options)


def log_probs(case, ids):
  """[T - 1] float64: of every token but the first, from the expected logits."""
  held = np.load(ROOT / case / 'expected.npz')
  [b] = [
    b for b, row in enumerate(held['right_input_ids'])
    if np.array_equal(row[: len(ids)], ids)
  ]  # fmt: skip
  x = held['right_logits'][b, : len(ids)].astype(np.float64)
  x = x - np.log(np.exp(x).sum(-1, keepdims=True))
  return x[np.arange(len(ids) - 1), ids[1:]]


def rows():
  """Two rows of the policy's reference outputs, with questions and steps cut freely."""
  held = np.load(ROOT / POLICY / 'expected.npz')
  out = []
  for ids, mask in zip(held['right_input_ids'][:2], held['right_attention_mask']):
    n = int(mask.sum())
    at = np.array([n - 9, n - 3, n - 1], np.int32)
    out.append(Encoded(ids[:n], at, 3, max(n - 14, 4)))
  return out


@pytest.mark.slow
def test_token_log_probabilities(policy, folders, monkeypatch):
  """Those of transformers' logits, in blocks of positions or not."""
  spec, params, words, _ = policy
  for block in (64, 4):
    monkeypatch.setattr(implicit, 'BLOCK', block)
    scorer = implicit.TokenScorer(spec, params, words, **OPTIONS)
    for row, found in zip(rows(), scorer.log_probs(rows()), strict=True):
      want = log_probs(POLICY, row.tokens)[row.question_length - 1 :]
      np.testing.assert_allclose(found, want, atol=1e-4)
  shared = implicit.TokenScorer(spec, params, words, batch_tokens=64)
  long = [dataclasses.replace(r, tokens=np.tile(r.tokens, 3)) for r in rows()]
  long = [dataclasses.replace(r, question_length=len(r.tokens) - 8) for r in long]
  assert all(shared.shared_length(implicit._every_token(r)) for r in long)
  alone = scorer.log_probs(long)
  for a, b in zip(shared.log_probs(long), alone, strict=True):
    assert len(a) == 8
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_log_ratios_of_two_models(policy, folders):
  scorer = make(policy, folders)
  reference = implicit.TokenScorer(*scorer._load(), **OPTIONS)
  theirs = reference.log_probs(rows())
  assert scorer.spec.kind == 'log_ratio' and scorer.spec.coefficient == 0.001
  for row, found, ref in zip(rows(), scorer.values(rows()), theirs, strict=True):
    ours = log_probs(POLICY, row.tokens)[row.question_length - 1 :]
    total = np.cumsum(ours - ref)
    want = 0.001 * total[row.step_positions - row.question_length]
    np.testing.assert_allclose(found, want, atol=1e-6)
  spec, params, words, about = policy
  single = dataclasses.replace(spec, step_value='log_ratio_step')
  alone = make((single, params, words, about), folders)
  for q, r in zip(scorer.values(rows()), alone.values(rows()), strict=True):
    np.testing.assert_allclose(np.cumsum(r), q, atol=1e-6)
  free = ImplicitScorer(spec, params, words, **OPTIONS)
  for row, found in zip(rows(), free.values(rows()), strict=True):
    ours = log_probs(POLICY, row.tokens)[row.question_length - 1 :]
    want = 0.001 * np.cumsum(ours)[row.step_positions - row.question_length]
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_the_reference_itself_has_ratio_zero(folders):
  same = public.load_scorer(folders[REFERENCE], adapter='eurus')
  for values in make(same, folders).values(rows()):
    np.testing.assert_array_equal(values, 0)


def test_cached_reference_is_not_run_again(policy, folders, tmp_path, monkeypatch):
  cache = str(tmp_path / 'cache')
  first = make(policy, folders, cache=cache)
  want = first.values(rows()[:1])
  monkeypatch.setattr(implicit, 'ROWS', 1)  # resumes: one row is new
  again = make(policy, folders, cache=cache)
  found = again.values(rows())
  files = sorted((tmp_path / 'cache').rglob('*.safetensors'))
  assert len(files) == 2 and again._reference is not None
  for a, b in zip(want, found):
    np.testing.assert_array_equal(a, b)

  def never():
    raise AssertionError('the reference was loaded')

  spec, params, words, _ = policy
  _, about = public.language_model(folders[REFERENCE])
  other = ImplicitScorer(
    spec, jax.tree.map(lambda x: x * 1.1, params), words,
    reference=never, cache=cache, reference_hash=about.digest, **OPTIONS,
  )  # fmt: skip
  assert not np.allclose(other.values(rows())[0], found[0])
  elsewhere = make(policy, folders, cache=cache, reference_hash='another model')
  assert not any(elsewhere._cache.key(r) in elsewhere._cache for r in rows())


def test_a_cached_row_is_known_by_where_its_response_begins():
  ids = np.arange(6, dtype=np.int32)
  rows = [Encoded(ids, np.array([5], np.int32), 1, n) for n in (2, 3)]
  assert len({implicit._Cache.key(row) for row in rows}) == 2  # 4 tokens, and 3


def test_from_text(policy, folders):
  scorer = make(policy, folders)
  t = Trajectory('t', 'p', '1+1?', ('One and one', 'is two.'))
  [row] = scorer.encode([t])
  words = policy[2]
  text = words.decode(row.tokens)
  assert text == (
    '<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n'
    'One and one\n\nis two.<|im_end|>'
  )
  ends = [words.decode(row.tokens[: at + 1])[-4:] for at in row.step_positions]
  assert ends == [' one', 'nd|>']
  [result] = scorer.score([t])
  assert result.kind == 'log_ratio' and len(result.values) == 2
  with pytest.raises(UserError, match="'product' needs probabilities"):
    step_values.check_reduction('product', result.kind)


def test_refusals(policy, folders, tmp_path):
  spec, params, words, _ = policy
  plain = dataclasses.replace(spec, step_value='logit')
  with pytest.raises(UserError, match='implicit scorer reads a language model'):
    ImplicitScorer(plain, params, words)
  other = folder_of(tmp_path, REFERENCE)
  tiny_tokenizers.write(other, {'a': 0, 'b': 1}, {'<|im_start|>': 301})
  with pytest.raises(UserError, match="other text to the reference's tokenizer"):
    make(policy, {**folders, REFERENCE: other}).values(rows())


def test_a_search_is_charged_for_both_models(folders):
  """Every token that an implicit PRM reads goes through its reference as well."""
  config = base.get_config()
  config.engine.kind = 'remote'
  config.search.policy_parameters = 7
  counts = {'policy_generated': 1, 'prm_read': 1}
  charged = {}
  for reference in (str(folders[REFERENCE]), 'none'):
    scorer, _ = api.open_scorer(folders[POLICY], adapter='eurus', reference=reference)
    charged[reference] = searchers.prices(config, None, scorer).flops(counts)
  both, alone = charged.values()
  spec = scorer.spec
  assert alone == 2 * 7 + 2 * compute.parameters(spec.model, spec.head)
  other = public.model_of(folders[REFERENCE])
  assert both - alone == 2 * compute.parameters(other, spec.head) > 0
