"""Candidates that share their question's keys score as they do alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from often import often

from prm_jax.formats import tokenizers
from prm_jax.formats.step_format import Encoded
from prm_jax.inference.scorer import Scorer
from prm_jax.models import decoder, decoding
from prm_jax.models import scorer as scoring_model
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat

SIZES = {'n_layers': 2, 'd_model': 16, 'n_heads': 4, 'n_kv_heads': 2, 'head_dim': 8}
VARIANTS = {
  'qwen': {'attention_bias': True, 'qk_norm': True, 'query_block': 5},
  'mistral': {'window': 6, 'query_block': 4, 'activation': 'gelu_tanh'},
  'gemma': {
    'n_layers': 3,
    'window': 7,
    'windowed_layers': (True, False, True),
    'rope_theta_local': 100.0,
    'attn_softcap': 5.0,
    'query_scale': 0.4,
    'norm_offset': 1.0,
    'embed_scale': 4.0,
    'post_norms': True,
  },
  'llama_scanned': {
    'n_layers': 3,
    'scan_layers': True,
    'rope_scaling': ('llama3', 4.0, 1.0, 4.0, 16),
  },
  'yarn_fused': {'rope_scaling': ('yarn', 4.0, 8, 32.0, 1.0, 0.0), 'attention': 'xla'},
}
FMT = StepFormat(max_length=256)
BYTES = tokenizers.load('bytes')


def spec_of(**changes):
  return ModelSpec(260, **{**SIZES, 'd_ff': 24, **changes})


def parameters(spec, head):
  rng = np.random.default_rng(0)
  noise = lambda w: w + 0.1 * rng.normal(size=w.shape).astype(np.float32)
  return jax.tree.map(noise, scoring_model.init(spec, head, jax.random.key(0)))


def texts(n_shared, n_own, lengths):
  """Questions [2, S], and rows [4, S + T] that continue `lengths` of question b % 2."""
  questions = jax.random.randint(jax.random.key(1), (2, n_shared), 0, 260)
  own = jax.random.randint(jax.random.key(2), (4, n_own), 0, 260)
  rows = [
    jnp.concatenate([questions[b % 2, :n], own[b], own[b, : n_shared - n]])
    for b, n in enumerate(lengths)
  ]
  return questions, own, jnp.stack(rows)


@pytest.mark.parametrize('name', often(VARIANTS, 'gemma', 'qwen'))
def test_states_are_those_of_the_joined_texts(name):
  spec, head = spec_of(**VARIANTS[name]), HeadSpec()
  params = parameters(spec, head)
  lengths = np.array([9, 3, 1, 12])
  questions, own, rows = texts(12, 13, lengths)
  steps = jnp.array([[0, 4, 12], [3, 5, 7], [12, 12, 2], [1, 1, 1]])

  def shared(params):
    keys = decoding.prefill(spec, params, questions)
    keys = [tuple(x[jnp.arange(4) % 2] for x in layer) for layer in keys]
    return decoding.read_on(spec, params, own, steps, keys, jnp.asarray(lengths))

  def alone(params):
    at = steps + jnp.asarray(lengths)[:, None]
    return decoder.forward(spec, params['decoder'], rows, at)

  if name != 'qwen':
    both = jax.jit(lambda p: (shared(p), alone(p)))(params)
    np.testing.assert_allclose(*both, atol=1e-5)
    return
  loss = lambda f: jax.value_and_grad(lambda p: jnp.sum(jnp.sin(f(p))))
  (a, of_a), (b, of_b) = jax.jit(lambda p: (loss(shared)(p), loss(alone)(p)))(params)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  flat = lambda tree: np.concatenate([np.ravel(g) for g in jax.tree.leaves(tree)])
  of_a, of_b = flat(of_a), flat(of_b)
  assert np.linalg.norm(of_a - of_b) < 1e-4 * np.linalg.norm(of_b)


SPEC = ScorerSpec(
  spec_of(), HeadSpec(init_scale=0.5), FMT, step_value='sigmoid', kind='probability'
)


def candidates(n_questions, n_each, seed=0):
  rng = np.random.default_rng(seed)
  rows = []
  for _ in range(n_questions):
    question = rng.integers(0, 250, rng.integers(33, 60))
    for _ in range(n_each):
      sizes = rng.integers(2, 12, rng.integers(1, 6))
      tokens = np.concatenate([question, rng.integers(0, 250, sizes.sum())])
      steps = len(question) - 1 + np.cumsum(sizes)
      rows.append(
        Encoded(
          tokens.astype(np.int32), steps.astype(np.int32), len(sizes), len(question)
        )
      )
  return rows


@pytest.fixture(scope='module')
def scorer():
  params = parameters(SPEC.model, SPEC.head)
  return Scorer(SPEC, params, BYTES, batch_tokens=512)


@pytest.mark.slow
def test_scores_are_those_of_rows_that_share_nothing(scorer):
  rows = candidates(3, 5)
  short = [Encoded(r.tokens[20:], r.step_positions - 20, r.n_steps, 12) for r in rows]
  alone = Scorer(SPEC, scorer._params, BYTES, batch_tokens=512, share_questions=False)
  assert all(scorer.shape_of(r).S for r in rows)
  assert not any(scorer.shape_of(r).S for r in short[:3])
  for a, b in zip(
    scorer.values([*rows, *short[:3]]), alone.values([*rows, *short[:3]])
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.std(np.concatenate(alone.values(rows))) > 0.01


@pytest.mark.slow
def test_neither_order_nor_company_moves_a_bit(scorer):
  rows = candidates(3, 5)
  whole = scorer.values(rows)
  order = np.random.default_rng(1).permutation(len(rows))
  for place, values in enumerate(scorer.values([rows[i] for i in order])):
    np.testing.assert_array_equal(values, whole[order[place]])
  np.testing.assert_array_equal(scorer.values([rows[7]])[0], whole[7])


def test_a_question_is_read_once(scorer):
  rows = candidates(3, 5)
  first = [e for e in candidates(1, 4, seed=5)]
  read = list(scorer._questions(rows, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]))
  assert sorted(m for members, _ in read for m in members) == list(range(10))
  jobs = list(scorer._jobs(rows + first))
  assert len({id(keys) for job in jobs for keys in job.caches}) == 4
  assert sorted(i for job in jobs for i in job.members) == list(range(19))
  # Each once in a batch, however many of its rows are there.
  starts = lambda job, n: {
    (rows + first)[i].tokens[:33].tobytes()
    for i, which in zip(job.members, job.which)
    if which == n
  }
  for job in jobs:
    assert all(len(starts(job, n)) == 1 for n in range(len(job.caches)))


def test_programs_have_an_argument_a_question_and_not_a_row(scorer, monkeypatch):
  """Those of a batch of thousands of rows took minutes to compile."""
  many = Scorer(SPEC, scorer._params, BYTES, batch_tokens=8192)
  seen = []
  monkeypatch.setattr(
    many, '_forward_shared', lambda *args: seen.append(args) or np.zeros((999, 9))
  )
  many.values(candidates(3, 5))
  assert {len(tokens) for _, tokens, *_ in seen} >= {8 * 8192 // 32}
  assert all(len(caches) in (1, 4) for _, _, _, caches, _, _ in seen)


@pytest.mark.slow
def test_no_read_position_is_shared(scorer):
  row = candidates(1, 1)[0]
  early = Encoded(row.tokens, np.array([32, 40], np.int32), 2, row.question_length)
  assert scorer.shared_length(early) == 32
  earlier = Encoded(row.tokens, np.array([5, 40], np.int32), 2, row.question_length)
  assert scorer.shared_length(earlier) == 0
  alone = Scorer(SPEC, scorer._params, BYTES, batch_tokens=512, share_questions=False)
  np.testing.assert_allclose(
    scorer.values([early])[0], alone.values([early])[0], atol=1e-5
  )
