"""Public process reward models, as data.

An `Adapter` says by what a checkpoint's folder is recognised and which scorer it
makes: step format, head, step value, reduction. `public.load_scorer` turns one into
the `ScorerSpec` that our own checkpoints save as well. Where the reference scores of
a family come from is part of the data:

  'fixture'       step probabilities equal those of transformers on small checkpoints
                  of its layout
  'golden'        the ids of given texts equal those of the authors' way of encoding,
                  under the family's own vocabulary
  'small golden'  the same under a small vocabulary of ours
  'unverified'    none of these; written from the authors' description
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from prm_jax.interop.config_values import Values
from prm_jax.specs import HeadSpec, StepFormat

REFERENCES = ('fixture', 'golden', 'small golden')
_QWEN_SYSTEM = 'Please reason step by step, and put your final answer within \\boxed{}.'
_CHATML = '<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n'
_LLAMA_HEAD = (
  '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge '
  'Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>'
  '<|start_header_id|>user<|end_header_id|>\n\n{question} '
)
_LLAMA_STEP = '{step}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'
_LLAMA_TURN = '<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n'


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A family of public PRMs.

  Attributes:
    name: what `scorer_adapter` calls it.
    models: the public checkpoints that it is for.
    format: how text becomes tokens. Where `chat` is set, its templates hold for
      folders without a chat template of their own.
    head: what is read; `label_tokens` and biases come from the folder.
    step_value, kind, reduction, coefficient, end: as in `ScorerSpec`.
    references: where its reference scores come from, some of `REFERENCES`.
    model_types: values of model_type in config.json; () any.
    architecture: how the class in config.json must end; '' any.
    tensors: names of head tensors that must be there.
    pattern: regular expression (any case) that the model's name must hold; ''
      recognises it by its tensors and tokens alone.
    tokens: special tokens that its tokenizer has.
    labels: texts of the label tokens, (wrong, correct), for head 'label_tokens'.
    chat: '' no chat template; 'question': the question is a user's turn, the steps
      the assistant's; 'turns': every step is a user's turn, answered by the marker.
    system: system message of the chat, None leaves it to the template.
    bos: begin with the tokenizer's beginning-of-sequence token, if it has one.
    ids: (text, id) that are facts of the public tokenizer.
    vocabulary: sizes (least, most) of config.json's vocab_size with which `ids` must
      hold; under other sizes the vocabulary is another one and only has to have each
      text as a single token.
    note: what a user should know.
  """

  name: str
  models: str
  format: StepFormat
  head: HeadSpec
  step_value: str
  kind: str
  reduction: str
  references: tuple[str, ...] = ()
  coefficient: float = 1.0
  end: str = ''
  model_types: tuple[str, ...] = ()
  architecture: str = ''
  tensors: tuple[str, ...] = ()
  pattern: str = ''
  tokens: tuple[str, ...] = ()
  labels: tuple[str, str] | tuple[()] = ()
  chat: str = ''
  system: str | None = None
  bos: bool = False
  ids: tuple[tuple[str, int], ...] = ()
  vocabulary: tuple[int, int] = (0, 0)
  note: str = ''

  @property
  def reference(self) -> str:
    """Where its reference scores come from, in words."""
    return ', '.join(self.references) or 'unverified'

  @property
  def implicit(self) -> bool:
    """Whether it needs a reference model."""
    return self.kind == 'log_ratio'

  def named(self, name: str) -> bool:
    """Whether the model's name says that it is of this family."""
    return bool(self.pattern and re.search(self.pattern, name, re.IGNORECASE))


_QWEN = Adapter(
  name='qwen_math_prm',
  models='Qwen2.5-Math-PRM-7B, -72B',
  format=StepFormat(
    question_template=f'<|im_start|>system\n{_QWEN_SYSTEM}<|im_end|>\n{_CHATML}',
    marker='<extra_0>',
    encoding='joined',
  ),
  head=HeadSpec('mlp', 2),
  step_value='softmax2',
  kind='probability',
  reduction='product',
  references=('fixture', 'golden'),
  model_types=('qwen2',),
  tensors=('score.0.weight', 'score.2.weight'),
  tokens=('<extra_0>',),
  chat='question',
  system=_QWEN_SYSTEM,
  ids=(('<extra_0>', 151651),),
  vocabulary=(151652, 152064),
)
_SHEPHERD = Adapter(
  name='math_shepherd',
  models='math-shepherd-mistral-7b-prm',
  format=StepFormat(
    question_template='{question} ',
    first_step_template='Step {number}: {step} ',
    step_template='\nStep {number}: {step} ',
    marker='ки',
    encoding='whole',
  ),
  head=HeadSpec('label_tokens', 2, (0, 1)),
  step_value='softmax2',
  kind='probability',
  reduction='min',
  references=('fixture', 'small golden'),
  model_types=('mistral', 'llama'),
  pattern='math.?shepherd',
  labels=('-', '+'),
  bos=True,
  ids=(('ки', 12902), ('+', 648), ('-', 387)),
  vocabulary=(32000, 32064),
  note='steps are numbered by the template: give them without "Step 1:"',
)

_LIST = (
  _QWEN,
  dataclasses.replace(
    _QWEN,
    name='qwen_prm800k',
    models='Qwen2.5-Math-7B-PRM800K',
    pattern='prm800k',
  ),
  _SHEPHERD,
  dataclasses.replace(
    _SHEPHERD,
    name='er_prm',
    models='ER-PRM',
    references=(),
    pattern='er[-_]prm',
    ids=(),
    vocabulary=(0, 0),
  ),
  Adapter(
    name='rlhflow',
    models='Llama3.1-8B-PRM-Mistral-Data, -Deepseek-Data',
    format=StepFormat(
      question_template=_LLAMA_HEAD,
      first_step_template=_LLAMA_STEP,
      step_template=_LLAMA_TURN + _LLAMA_STEP,
      marker='+',
      position='before',
      encoding='joined',
      marker_in_text='allow',
      strip=True,
    ),
    head=HeadSpec('label_tokens', 2, (0, 1)),
    step_value='softmax2',
    kind='probability',
    reduction='mean',
    references=('small golden',),
    model_types=('llama',),
    pattern=r'llama.?3\.1.*prm.*(mistral|deepseek)|rlhflow',
    tokens=('<|eot_id|>', '<|start_header_id|>'),
    labels=('-', '+'),
    chat='turns',
    ids=(('+', 10), ('-', 12)),
    vocabulary=(128256, 128320),
    note='earlier turns are always answered "+", so one pass reads all steps',
  ),
  Adapter(
    name='skywork',
    models='Skywork-o1-Open-PRM-Qwen-2.5-1.5B, -7B',
    format=StepFormat(
      question_template='{question}\n',
      marker='\n',
      marker_in_text='split',
    ),
    head=HeadSpec('scalar'),
    step_value='sigmoid',
    kind='probability',
    reduction='min',
    references=('fixture', 'golden'),
    model_types=('qwen2',),
    tensors=('v_head.summary.weight',),
    bos=True,
    ids=(('\n', 198),),
    vocabulary=(151643, 152064),
    note=(
      'a step of several lines is read at its last line; the authors leave the '
      'reduction to the user'
    ),
  ),
  Adapter(
    name='trl',
    models="token classification, as TRL's PRMTrainer saves it",
    format=StepFormat(
      question_template='{question}',
      marker='\n',
      marker_in_text='allow',
    ),
    head=HeadSpec('linear', 2),
    step_value='softmax2',
    kind='probability',
    reduction='min',
    references=('fixture', 'golden'),
    architecture='ForTokenClassification',
    tensors=('score.weight',),
    bos=True,
    note='the step separator is not saved by TRL: give it if it is not a line break',
  ),
  Adapter(
    name='pqm',
    models='PQM',
    format=StepFormat(
      question_template='{question}\n',
      first_step_template='Step {number}: {step} ',
      step_template='\nStep {number}: {step} ',
      marker='[PRM]',
      encoding='joined',
    ),
    head=HeadSpec('scalar'),
    step_value='logit',
    kind='logit',
    reduction='min',
    references=('small golden',),
    tensors=('v_head.summary.weight',),
    pattern='pqm',
    tokens=('[PRM]',),
    bos=True,
    note='steps are numbered by the template: give them without "Step 1:"',
  ),
  Adapter(
    name='eurus',
    models='EurusPRM-Stage1, -Stage2 and other implicit PRMs',
    format=StepFormat(
      question_template=_CHATML,
      first_step_template='{step}',
      step_template='\n\n{step}',
      marker='',
      encoding='whole',
    ),
    head=HeadSpec('lm'),
    step_value='log_ratio',
    kind='log_ratio',
    reduction='min',
    references=('golden',),
    coefficient=0.001,
    end='<|im_end|>',
    pattern='eurus.*prm',
    chat='question',
    note=(
      'needs a reference model (Qwen2.5-Math-7B-Instruct); q_t runs to the last token '
      "of step t, the last step's with the end token"
    ),
  ),
)

ADAPTERS: dict[str, Adapter] = {a.name: a for a in _LIST}
"""Name -> adapter."""


def candidates(
  name: str, config: Values, tensors: Iterable[str], tokens: Iterable[str]
) -> list[Adapter]:
  """Adapters that a checkpoint may be of; one if it is clear.

  Args:
    name: of the model: OWNER/NAME, or the folder's.
    config: its config.json.
    tensors: names of its tensors.
    tokens: those of `special_tokens` that its tokenizer has.

  Raises:
    UserError: class or family in config.json are no texts.
  """
  held, known = set(tensors), set(tokens)
  classes = config.words('architectures') or ('',)
  kind = config.word('model_type')
  fits = [
    a
    for a in _LIST
    if set(a.tensors) <= held
    and set(a.tokens) <= known
    and (not a.model_types or kind in a.model_types)
    and any(c.endswith(a.architecture) for c in classes)
  ]
  by_name = [a for a in fits if a.named(name)]
  if by_name:
    return by_name
  # Without a name that says so a causal LM is no PRM, and the most evidence counts.
  fits = [a for a in fits if a.tensors]
  most = max((len(a.tensors) + len(a.tokens) for a in fits), default=0)
  fits = [a for a in fits if len(a.tensors) + len(a.tokens) == most]
  return [a for a in fits if not a.pattern] or fits


def special_tokens() -> set[str]:
  """Every token by which an adapter is recognised."""
  return {token for a in _LIST for token in a.tokens}


def recognised_by(adapter: Adapter) -> str:
  """In words, for the table."""
  parts = [f'`{t}`' for t in (*adapter.tensors, *adapter.tokens)]
  if adapter.pattern:
    parts.append(f'name like `{adapter.pattern}`')
  return ', '.join(parts).replace('|', '\\|')


def read_at(adapter: Adapter) -> str:
  """Where a step is read, in words."""
  fmt = adapter.format
  if not fmt.marker:
    return "the step's last token"
  shown = fmt.marker.replace('\n', '\\n')
  return f'{"before" if fmt.position == "before" else "at"} `{shown}`'


def table() -> str:
  """The adapters as a Markdown table."""
  scores = {
    'softmax2': 'softmax of two, "correct"',
    'sigmoid': 'sigmoid of a value',
    'logit': 'logit',
    'log_ratio': 'sum of log-ratios',
  }
  rows = [
    (
      'adapter', 'public models', 'recognised by', 'read', 'score', 'reduction',
      'reference', 'ids of a prefix stay',
    )
  ]  # fmt: skip
  for a in _LIST:
    rows.append(
      (
        f'`{a.name}`', a.models, recognised_by(a), read_at(a), scores[a.step_value],
        a.reduction, a.reference, 'yes' if a.format.extends else 'no, scored anew',
      )
    )  # fmt: skip
  lines = [f'| {" | ".join(row)} |' for row in rows]
  lines.insert(1, '|' + ' --- |' * len(rows[0]))
  return '\n'.join(lines)
