"""The model card of an export: what it is, and how three libraries read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.specs import HeadSpec, PolicySpec, ScorerSpec

_MOST = 40  # figures that are shown
VLLM_TAG = 151651  # the step tag that vLLM takes for Qwen2ForProcessRewardModel


def text(
  spec: ScorerSpec | PolicySpec,
  tokenizer: Tokenizer,
  config: Mapping[str, Any],
  layout: str,
  digest: str,
  origin: Mapping[str, Any],
) -> str:
  """README.md of an export, Markdown.

  Args:
    spec, tokenizer: of the model.
    config: its config.json.
    layout: of the export.
    digest: its model hash.
    origin: 'base' and 'metrics', where known.
  """
  scorer = isinstance(spec, ScorerSpec)
  tag = 'token-classification' if scorer else 'text-generation'
  parts = [
    f'---\nlibrary_name: transformers\npipeline_tag: {tag}\n---\n',
    f'# {"Process reward model" if scorer else "Policy"}\n',
    'Exported by prm_jax.\n',
    _facts(spec, config, digest, origin),
    _step_format(spec, tokenizer) if isinstance(spec, ScorerSpec) else '',
    _transformers(spec, tokenizer, config, layout),
    _vllm(spec, tokenizer, layout) if isinstance(spec, ScorerSpec) else '',
    _own(spec),
    _figures(origin.get('metrics') or {}),
  ]
  return '\n'.join(part for part in parts if part)


def _facts(
  spec: ScorerSpec | PolicySpec,
  config: Mapping[str, Any],
  digest: str,
  origin: Mapping[str, Any],
) -> str:
  rows = {
    'class': config['architectures'][0],
    'started from': origin.get('base') or 'random weights, or not recorded',
    'model hash': digest,
  }
  if isinstance(spec, ScorerSpec):
    rows |= {
      'objective': spec.objective or 'not recorded',
      'label set': spec.label or 'not recorded',
      'value of a step': f'{spec.step_value} ({spec.kind})',
      'reduction to one score': spec.reduction,
    }
  lines = ''.join(f'| {name} | {value} |\n' for name, value in rows.items())
  return f'| | |\n|---|---|\n{lines}'


def _step_format(spec: ScorerSpec, tokenizer: Tokenizer) -> str:
  fmt = spec.step_format
  marker = f'`{fmt.marker!r}`'
  if fmt.marker:
    marker += f' (id {tokenizer.token_id(fmt.marker)})'
  first = fmt.first_step_template or fmt.step_template
  at = 'at the marker' if fmt.marker else 'at the last token of the step'
  at = 'at the token before the marker' if fmt.position == 'before' else at
  lines = [
    '## Step format\n',
    f'- question: `{fmt.question_template!r}`',
    f'- step: `{fmt.step_template!r}` (first: `{first!r}`)',
    f'- after each step: {marker if fmt.marker else "nothing"}',
    f'- a step is read {at}',
    f'- encoding: {fmt.encoding!r}; begins with bos: {fmt.add_bos}; trained on up to '
    f'{fmt.max_length} tokens',
    '',
    _classes(spec.head, spec.step_value),
  ]
  return '\n'.join(lines)


def _classes(head: HeadSpec, value: str) -> str:
  if head.kind == 'scalar':
    return (
      f'The one output is the logit that the step is correct, read as {value!r}: the '
      'larger the better.\n'
    )
  if head.kind in ('label_tokens', 'lm'):
    ids = ', '.join(map(str, head.label_tokens))
    return (
      f'The value is read from the logits of the tokens {ids} (wrong to correct) at '
      'the position of the step.\n'
    )
  n = 2 if head.kind == 'mlp' else head.n_outputs
  best = f'LABEL_{n - 1}'
  return f'Classes go from worst to best: {best} is "the step is correct".\n'


def _transformers(
  spec: ScorerSpec | PolicySpec,
  tokenizer: Tokenizer,
  config: Mapping[str, Any],
  layout: str,
) -> str:
  name = config['architectures'][0]
  if layout == 'vllm':
    return (
      '## transformers\n\n`AutoModel.from_pretrained(FOLDER)` loads the decoder; the '
      'head is `score.0` (linear), ReLU, `score.2` (linear) on its hidden states, at '
      'the marker; softmax, class 1 is "correct".\n'
    )
  if isinstance(spec, ScorerSpec) and name.endswith('TextModel'):
    return (
      '## transformers\n\ntransformers has no token classification for this family: '
      '`AutoModel.from_pretrained(FOLDER)` loads the decoder, and `score.weight`, '
      '`score.bias` of model.safetensors are a linear layer on its hidden states.\n'
    )
  lines = ['## transformers\n', '```python']
  if not isinstance(spec, ScorerSpec) or spec.head.kind in ('lm', 'label_tokens'):
    lines += [
      'from transformers import AutoModelForCausalLM',
      '',
      "model = AutoModelForCausalLM.from_pretrained('FOLDER').eval()",
      'logits = model(input_ids).logits',
    ]
    if isinstance(spec, ScorerSpec):
      lines[-1] += f'[:, :, {list(spec.head.label_tokens)}]'
  else:
    lines += [
      'from transformers import AutoModelForTokenClassification',
      '',
      "model = AutoModelForTokenClassification.from_pretrained('FOLDER').eval()",
      'logits = model(input_ids).logits  # [B, T, classes]',
    ]
  if isinstance(spec, ScorerSpec):
    marker = spec.step_format.marker
    token = tokenizer.token_id(marker) if marker else None
    if token is not None and spec.step_format.position == 'marker':
      lines.append(f'steps = logits[input_ids == {token}]  # one row a step')
  return '\n'.join([*lines, '```\n'])


def _vllm(spec: ScorerSpec, tokenizer: Tokenizer, layout: str) -> str:
  if layout != 'vllm':
    return ''
  marker = spec.step_format.marker
  tag = tokenizer.token_id(marker) if marker else None
  option = ''
  if tag is not None and tag != VLLM_TAG:
    option = f' --pooler-config \'{{"pooling_type":"STEP","step_tag_id":{tag}}}\''
  return (
    f'## vLLM\n\n```\nvllm serve FOLDER --runner pooling{option}\n```\n\n`POST '
    '/pooling` with task `token_classify` gives `[p_wrong, p_correct]` for each step.\n'
  )


def _own(spec: ScorerSpec | PolicySpec) -> str:
  if isinstance(spec, ScorerSpec):
    use = (
      'python -m prm_jax.main --config=configs/score.py --config.scorer=FOLDER \\\n'
      '    --config.input=STEPS.jsonl --config.output=SCORED.jsonl.gz'
    )
  else:
    use = (
      'python -m prm_jax.main --config=configs/policy.py \\\n'
      '    --config.model.init_from=FOLDER'
    )
  return f'## prm_jax\n\n```\n{use}\n```\n'


def _figures(metrics: Mapping[str, Any]) -> str:
  """A table of results.json's metrics that have a value."""
  rows = []
  for name, held in metrics.items():
    value = held.get('value') if isinstance(held, Mapping) else None
    if not isinstance(value, (int, float)):
      continue
    low, high = held.get('low'), held.get('high')
    span = f'{low:.3g} to {high:.3g}' if low is not None and high is not None else ''
    rows.append(f'| {name} | {value:.3g} | {span} | {held.get("n", "")} |')
  if not rows:
    return ''
  more = f'\n{len(rows) - _MOST} more are in results.json.' if len(rows) > _MOST else ''
  return (
    '## Figures\n\n| metric | value | 95 % interval | n |\n|---|---:|---|---:|\n'
    + '\n'.join(rows[:_MOST])
    + f'\n{more}'
  )
