"""Public PRMs behind the endpoints: the numbers of `score`, and tags in texts."""

import numpy as np
import pytest
from test_public_prms import make
from test_public_prms import pytestmark as pytestmark

from prm_jax.formats.splitting import Splitter
from prm_jax.formats.step_format import encode
from prm_jax.inference.pooling import pooling
from prm_jax.inference.scorer import Scorer
from prm_jax.inference.serving import Refusal, Service
from prm_jax.interop import public
from prm_jax.records import Trajectory
from prm_jax.specs import TextFormat

QUESTION, STEPS = 'What is 2 + 2, and what is twice that?', ('2 + 2 = 4', '2 * 4 = 8')


def service_of(folder, **options):
  spec, params, words, _ = public.load_scorer(folder, **options)
  scorer = Scorer(spec, params, words, batch_tokens=256)
  service = Service(
    scorer, name='m', reduction='min', text=TextFormat(), splitter=Splitter()
  )
  [scores] = scorer.score([Trajectory('a', 'a', QUESTION, STEPS)])
  return service, list(scores.values)


def answer(service, **body):
  query = pooling(service, body)
  return query.answer(service.scorer.values(query.rows))['data'][0]['data'], query


@pytest.mark.slow
@pytest.mark.parametrize('case', ['qwen2_math_prm', 'qwen2_token_cls'])
def test_a_text_a_conversation_and_ids(case, tmp_path):
  service, wanted = service_of(make(tmp_path, case))
  fmt, words = service.scorer.spec.step_format, service.scorer.tokenizer
  content = ''.join(f'{s}{fmt.marker}' for s in STEPS)
  text = fmt.question_template.replace('{question}', QUESTION) + content
  row = encode(fmt, words, QUESTION, STEPS)
  messages = [
    {'role': 'user', 'content': QUESTION},
    {'role': 'assistant', 'content': content},
  ]
  pairs, query = answer(service, messages=messages)
  assert [b for _, b in pairs] == wanted
  np.testing.assert_allclose(np.sum(pairs, axis=1), 1, atol=1e-6)
  found, query = answer(service, input=text)
  np.testing.assert_array_equal(query.rows[0].tokens, row.tokens)
  np.testing.assert_array_equal(query.rows[0].step_positions, row.step_positions)
  if case == 'qwen2_math_prm':  # its template shows where the question ends
    assert query.rows[0].question_length == row.question_length > 32
    assert found == pairs
  np.testing.assert_allclose(found, pairs, atol=1e-5)
  found, _ = answer(service, input=[row.tokens.tolist()])
  np.testing.assert_allclose(found, pairs, atol=1e-5)
  # What follows the last tag changes nothing.
  more, _ = answer(service, input=text + ' and so on')
  np.testing.assert_allclose(more, pairs, atol=1e-5)


def test_tags_of_a_format_that_is_encoded_as_a_whole(tmp_path):
  service, wanted = service_of(make(tmp_path, 'mistral_plus_minus'))
  fmt = service.scorer.spec.step_format
  text = fmt.question_template.replace('{question}', QUESTION)
  for i, step in enumerate(STEPS, 1):
    template = fmt.first_step_template if i == 1 else fmt.step_template
    text += template.replace('{number}', str(i)).replace('{step}', step) + fmt.marker
  found, _ = answer(service, input=text)
  np.testing.assert_allclose([b for _, b in found], wanted, atol=1e-5)


def test_what_has_no_probabilities(tmp_path):
  service, _ = service_of(make(tmp_path, 'qwen2_skywork'))
  with pytest.raises(Refusal, match='gives probabilities'):
    pooling(service, {'input': 'a\n', 'use_activation': False})
