"""Public PRMs by adapter: probabilities of steps, recognition, known traps."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_tokenizers
from often import often

from prm_jax import step_values
from prm_jax.errors import UserError
from prm_jax.formats.step_format import Encoded, Unusable
from prm_jax.inference.scorer import Scorer
from prm_jax.interop import adapters, public, saving
from prm_jax.records import Trajectory

README = Path(__file__).resolve().parent.parent / 'README.md'
ROOT = Path(
  os.environ.get('PRM_JAX_PARITY') or Path(__file__).parent / 'fixtures/parity'
)
# Case -> (adapter, name of the folder, texts with a fixed id, special tokens).
CASES = {
  'qwen2_token_cls': ('trl', 'my-model', {'\n': 4}, {}),
  'qwen2_math_prm': ('qwen_math_prm', 'my-prm', {}, {'<extra_0>': 318}),
  'qwen2_skywork': ('skywork', 'sky', {'\n': 4}, {}),
  'mistral_plus_minus': (
    'math_shepherd', 'math-shepherd-mistral-7b-prm', {'ки': 5, '+': 6, '-': 7}, {},
  ),
}  # fmt: skip

pytestmark = pytest.mark.skipif(
  not (ROOT / 'qwen2_token_cls').is_dir(),
  reason='no reference checkpoints: PRM_JAX_PARITY does not name them',
)


def make(tmp_path, case, **tokenizer):
  """A public PRM's folder: a reference checkpoint with a tokenizer beside it."""
  _, name, fixed, specials = CASES[case]
  folder = tmp_path / name
  folder.mkdir(parents=True, exist_ok=True)
  for file in ('config.json', 'model.safetensors'):
    shutil.copyfile(ROOT / case / file, folder / file)
  tokenizer = {'fixed': fixed, 'specials': specials, **tokenizer}
  return tiny_tokenizers.write(folder, **tokenizer)


def change(folder, **values):
  file = folder / 'config.json'
  file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refusal(*args, **options):
  with pytest.raises(UserError) as caught:
    public.load_scorer(*args, **options)
  message = str(caught.value)
  assert '\n' not in message
  return message


def rows_of(expected):
  """Encoded rows and probabilities of a case."""
  rows, probs = [], []
  for ids, mask, at, p in zip(
    expected['right_input_ids'],
    expected['right_attention_mask'],
    expected['right_step_positions'],
    expected['right_step_probs'],
  ):
    at, p = at[at >= 0], p[at >= 0]
    rows.append(Encoded(ids[: mask.sum()], at, len(at), int(at[0])))
    probs.append(p)
  return rows, probs


@pytest.mark.parametrize('case', often(CASES, 'qwen2_math_prm', 'mistral_plus_minus'))
def test_probabilities_of_the_reference(tmp_path, case):
  folder = make(tmp_path, case)
  spec, params, tokenizer, about = public.load_scorer(folder)
  assert (about.adapter, about.source) == (CASES[case][0], str(folder))
  assert about.prefix_stable == (case != 'mistral_plus_minus')
  assert spec.kind == 'probability' and not about.revision
  rows, probs = rows_of(np.load(ROOT / case / 'expected.npz'))
  scorer = Scorer(spec, params, tokenizer, batch_tokens=256, share_questions=False)
  for ours, theirs in zip(scorer.values(rows), probs, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
  if case == 'qwen2_math_prm':
    zeros_stay(scorer, rows)


def zeros_stay(scorer, rows):
  """A head that underflows: steps are found by position, never by a value's size."""
  params = scorer._params
  bias = params['head']['bout_Q'] + np.array([500, 0], np.float32)
  broken = scorer.with_params({**params, 'head': {**params['head'], 'bout_Q': bias}})
  for row, values in zip(rows, broken.values(rows), strict=True):
    assert values.tolist() == [0.0] * row.n_steps
  [result] = broken.score([trajectory('1+1?', ['a', 'b', 'c'])])
  assert result.values == (0.0, 0.0, 0.0)


def trajectory(question, steps):
  return Trajectory('t', 'p', question, tuple(steps))


def encoded(folder, question, steps, **options):
  spec, params, tokenizer, _ = public.load_scorer(folder, **options)
  [row] = Scorer(
    spec, params, tokenizer, batch_tokens=256, share_questions=False
  ).encode([trajectory(question, steps)])
  return row, tokenizer


def test_as_many_markers_as_steps(tmp_path):
  """Also where the last step ends with the separator: no second marker comes."""
  row, _ = encoded(make(tmp_path, 'qwen2_math_prm'), 'q', ['a', 'b\n\n'])
  assert (row.tokens == 318).sum() == 2 == row.n_steps
  assert (row.tokens[row.step_positions] == 318).all()
  row, tokenizer = encoded(make(tmp_path / 'trl', 'qwen2_token_cls'), 'q', ['a', 'b'])
  assert tokenizer.decode(row.tokens) == 'qa\nb\n'
  assert row.step_positions.tolist() == [2, 4] and (row.tokens[[2, 4]] == 4).all()


@pytest.mark.parametrize('case', CASES)
def test_an_empty_turn_is_not_scored(tmp_path, case):
  """'text\\n\\n'.split('\\n\\n') ends with ''; that is no step to judge."""
  spec, params, tokenizer, _ = public.load_scorer(make(tmp_path, case))
  scorer = Scorer(spec, params, tokenizer, batch_tokens=256, share_questions=False)
  [row] = scorer.encode([trajectory('q', ['one', 'two', ''])])
  assert isinstance(row, Unusable) and row.reason == 'empty_step'


def test_math_shepherd_reads_at_its_tag_and_numbers_steps(tmp_path):
  folder = make(tmp_path, 'mistral_plus_minus', specials={'<s>': 1}, bos='<s>')
  row, tokenizer = encoded(folder, '2+2?', ['It is 4', 'So 4'])
  text = tokenizer.decode(row.tokens)
  assert text == '<s>2+2? Step 1: It is 4 ки\nStep 2: So 4 ки'
  assert (row.tokens[row.step_positions] == 5).all() and row.n_steps == 2
  spec, *_ = public.load_scorer(folder)
  assert spec.head.label_tokens == (7, 6)  # wrong, correct
  assert spec.reduction == 'min'


def test_rlhflow_reads_before_the_verdict(tmp_path):
  """One pass: every earlier turn is answered '+', read at the token before it."""
  specials = {
    t: 300 + i
    for i, t in enumerate(
      ('<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>')
    )
  }
  folder = make(tmp_path, 'mistral_plus_minus', specials=specials)
  change(folder, model_type='llama', architectures=['LlamaForCausalLM'])
  options = {'adapter': 'rlhflow'}
  row, tokenizer = encoded(folder, ' 1+1?', ['one ', 'two'], **options)
  spec, *_ = public.load_scorer(folder, **options)
  assert spec.step_format.position == 'before' and spec.reduction == 'mean'
  text = tokenizer.decode(row.tokens)
  head = '<|start_header_id|>{}<|end_header_id|>\n\n'
  assert text.startswith('<|begin_of_text|>' + head.format('system') + 'Cutting')
  assert text.endswith(
    head.format('user') + '1+1? one<|eot_id|>' + head.format('assistant') + '+'
    '<|eot_id|>' + head.format('user') + 'two<|eot_id|>' + head.format('assistant')
    + '+'
  )  # fmt: skip
  assert (row.tokens[row.step_positions + 1] == 6).all()
  assert tokenizer.decode(row.tokens[row.step_positions]) == '\n\n'


def test_skywork_reads_every_step_at_its_last_line(tmp_path):
  folder = make(tmp_path, 'qwen2_skywork', specials={'<s>': 1}, bos='<s>')
  row, tokenizer = encoded(folder, 'q', ['a\nb', 'c'])
  assert tokenizer.decode(row.tokens) == '<s>q\na\nb\nc\n'
  assert row.step_positions.tolist() == [6, 8]


def test_trl_separator_of_several_tokens(tmp_path):
  folder = make(tmp_path, 'qwen2_token_cls')
  row, tokenizer = encoded(folder, 'q', ['a', 'b'], separator='\n\n')
  assert tokenizer.decode(row.tokens) == 'qa\n\nb\n\n'
  assert row.step_positions.tolist() == [3, 6]
  folder = make(tmp_path, 'qwen2_math_prm')
  assert 'leave it out' in refusal(folder, separator='\n')


def test_the_folders_own_chat_template_is_used(tmp_path):
  folder = make(tmp_path, 'qwen2_math_prm')
  template = (
    "{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{% endfor %}"
    '{% if add_generation_prompt %}[assistant]{% endif %}'
  )
  (folder / 'chat_template.jinja').write_text(template)
  spec, *_ = public.load_scorer(folder)
  system = 'Please reason step by step, and put your final answer within \\boxed{}.'
  assert spec.step_format.question_template == (
    f'[system]{system}[user]{{question}}[assistant]'
  )
  assert spec.step_format.strip


def test_names_decide_between_families_of_one_layout(tmp_path):
  folder = make(tmp_path, 'qwen2_math_prm')
  named = folder.rename(tmp_path / 'Qwen2.5-Math-7B-PRM800K')
  assert public.load_scorer(named)[3].adapter == 'qwen_prm800k'
  assert public.load_scorer(named, adapter='qwen_math_prm')[3].adapter == (
    'qwen_math_prm'
  )
  cached = tmp_path / 'models--Qwen--Qwen2.5-Math-7B-PRM800K' / 'snapshots' / 'abc'
  shutil.copytree(named, cached)
  about = public.load_scorer(cached)[3]
  assert (about.adapter, about.revision) == ('qwen_prm800k', 'abc')


def test_a_value_head_with_its_own_marker_is_pqm(tmp_path):
  folder = make(tmp_path, 'qwen2_skywork', specials={'[PRM]': 319})
  spec, _, _, about = public.load_scorer(folder)
  assert (about.adapter, about.reference) == ('pqm', 'small golden')
  assert (spec.kind, spec.step_value, spec.reduction) == ('logit', 'logit', 'min')
  row, tokenizer = encoded(folder, 'q', ['a', 'b'])
  assert tokenizer.decode(row.tokens) == 'q\nStep 1: a [PRM]\nStep 2: b [PRM]'
  assert (row.tokens[row.step_positions] == 319).all()


def test_what_is_no_public_prm_is_refused(tmp_path):
  folder = make(tmp_path, 'mistral_plus_minus').rename(tmp_path / 'some-model')
  said = refusal(folder)
  assert 'no family' in said and 'scorer_adapter=NAME' in said
  assert all(name in said for name in adapters.ADAPTERS)
  said = refusal(folder, adapter='math-shepherd')
  assert "scorer_adapter='math-shepherd'" in said and 'math_shepherd' in said
  assert 'score' in refusal(folder, adapter='trl')  # the head is missing
  (tmp_path / 'empty').mkdir()
  for nothing in ('empty', 'nowhere'):
    assert 'config.json' in refusal(tmp_path / nothing)
  assert 'float8' in refusal(folder, dtype='float8')


def test_configs_of_the_wrong_type_are_refused_by_name(tmp_path):
  folder = make(tmp_path, 'qwen2_token_cls')
  change(folder, max_position_embeddings='256')
  said = refusal(folder)
  assert said == (
    f"{folder}/config.json: field 'max_position_embeddings' is '256'; it must be a "
    'whole number.'
  )
  change(folder, architectures='Qwen2ForTokenClassification')
  assert "field 'architectures' is 'Qwen2ForTokenClassification'" in refusal(folder)


def test_other_vocabularies_are_refused(tmp_path):
  folder = make(tmp_path, 'qwen2_math_prm', specials={})
  said = refusal(folder, adapter='qwen_math_prm')
  assert "'<extra_0>' must be one token" in said
  folder = make(tmp_path, 'mistral_plus_minus', fixed={'ки': 5, '+': 6, '-': 7})
  family = dataclasses.replace(adapters.ADAPTERS['math_shepherd'], vocabulary=(1, 999))
  ckpt = public.checkpoints.open_checkpoint(folder)
  model = public.architectures.model_spec(ckpt.config, str(folder))
  words = public.tokenizers.load(folder)
  with pytest.raises(UserError, match=r"gives 'ки' the id 5, .* it is 12902"):
    public.make_spec(family, ckpt, model, words)
  small = make(tmp_path, 'qwen2_token_cls')
  change(small, vocab_size=200)
  assert '200 embeddings' in refusal(small)


def test_tokens_that_the_model_has_no_row_for_are_text(tmp_path):
  """A text model whose family also reads images has one in its tokenizer."""
  folder = make(tmp_path, 'qwen2_token_cls', specials={'<image>': 320, '<last>': 319})
  row, tokenizer = encoded(folder, '<last>', ['an <image>'])
  assert tokenizer.vocab_size == 320
  assert row.tokens.max() == 319 and tokenizer.decode(row.tokens).endswith('<image>\n')


def test_what_an_export_says_of_itself_is_held_against_it(tmp_path):
  spec, params, tokenizer, _ = public.load_scorer(make(tmp_path, 'qwen2_token_cls'))
  out = tmp_path / 'out'
  saving.save(out, spec, params, tokenizer)
  assert public.load_scorer(out)[3].adapter == public.EXPORTED
  assert 'leave it out' in refusal(out, separator='#')
  file = out / 'tokenizer.json'
  held = json.loads(file.read_text())
  vocab = held['model']['vocab']
  a, b = list(vocab)[40:42]
  vocab[a], vocab[b] = vocab[b], vocab[a]
  file.write_text(json.dumps(held))
  assert 'another fingerprint' in refusal(out)


def test_dtypes(tmp_path):
  folder = make(tmp_path, 'qwen2_math_prm')
  spec, params, *_ = public.load_scorer(folder, dtype='bfloat16')
  assert (spec.model.param_dtype, spec.model.compute_dtype) == ('bfloat16',) * 2
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}


def test_digests_tell_models_apart(tmp_path):
  digests = {
    public.load_scorer(make(tmp_path / case, case))[3].digest for case in CASES
  }
  assert len(digests) == len(CASES)


def test_adapters_are_sound():
  for name, a in adapters.ADAPTERS.items():
    assert a.name == name and set(a.references) <= set(adapters.REFERENCES)
    assert a.step_value in step_values.VALUES
    step_values.check_reduction(a.reduction, a.kind)
    assert (a.head.kind == 'label_tokens') == bool(a.labels)
  table = adapters.table().splitlines()
  assert len(table) == len(adapters.ADAPTERS) + 2
  assert len({line.replace('\\|', '').count('|') for line in table}) == 1
  assert '\n'.join(table) in README.read_text('utf-8'), 'print it anew'


def test_the_last_class_is_the_good_one_in_every_family():
  """Of two label tokens the score is the probability of the second."""
  held = {n: a.labels for n, a in adapters.ADAPTERS.items() if a.labels}
  assert held == dict.fromkeys(('math_shepherd', 'er_prm', 'rlhflow'), ('-', '+'))
  assert step_values.softmax2(np.array([[0.0, 9.0]])) > 0.99
