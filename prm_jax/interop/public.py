"""Scorers from wherever they are: our own exports and public PRMs.

One function, `load_scorer`, gives spec, parameters and tokenizer of a train run's
workdir or scorer, of a Hugging Face folder that this library exported, or of a
public PRM by its adapter (`adapters.ADAPTERS`), and says where all of it comes from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from prm_jax import exports, files, jsonl, specs
from prm_jax.errors import UserError
from prm_jax.formats import chat_template, step_format, tokenizers
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.interop import adapters, architectures, checkpoints, hub, loading
from prm_jax.interop.adapters import ADAPTERS, Adapter
from prm_jax.interop.checkpoints import Checkpoint
from prm_jax.models import weights
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat

Shardings = Callable[[dict[str, Any]], Any]
OWN, EXPORTED = 'own', 'exported'
SAMPLED = 'config, names, shapes, first rows of all tensors'
LONGEST = 32768  # tokens of a row, where the model itself would take more


@dataclasses.dataclass(frozen=True)
class About:
  """Where a scorer comes from.

  Attributes:
    adapter: 'own', 'exported' or a name in `ADAPTERS`.
    reference: where the reference scores of the family come from: some of
      `adapters.REFERENCES`, 'unverified', or 'own' for our own models.
    source: what the user wrote.
    folder: where it was read.
    revision: commit on the Hub, '' elsewhere.
    digest: of the model: the SHA-256 over all parameters of our own exports, else
      that of `sampled_digest`.
    digest_of: 'parameters' or `SAMPLED`.
    prefix_stable: whether the ids of a prefix are a prefix of the ids.
    note: what a user should know of the family.
  """

  adapter: str
  reference: str
  source: str
  folder: str
  revision: str
  digest: str
  digest_of: str
  prefix_stable: bool
  note: str = ''

  def to_dict(self) -> dict[str, Any]:
    """For results.json."""
    return dataclasses.asdict(self)


Loaded = tuple[ScorerSpec, dict[str, Any], Tokenizer, About]


def load_scorer(
  path: str | os.PathLike[str],
  *,
  adapter: str = '',
  shardings: Shardings | None = None,
  dtype: str = '',
  separator: str = '',
) -> Loaded:
  """A scorer, by path.

  Args:
    path: a train run's workdir, its folder `scorer`, a Hugging Face folder, or
      hf:OWNER/NAME@REVISION.
    adapter: family of a public PRM, a name in `ADAPTERS`; '' recognises it.
    shardings: function from the declared weights to a tree of shardings, such as
      `functools.partial(param_shardings, mesh)`; each weight goes from disk to its
      devices. None leaves the choice to whoever uses the parameters.
    dtype: of parameters and computation; '' keeps parameters as they are stored and
      computes in float32 (our own: as trained).
    separator: what ends a step, for families that do not save it (TRL); our own
      models and exports do.

  Returns:
    (spec, params, tokenizer, about).

  Raises:
    UserError: nothing sound is there, the family is unclear or unknown, or its
      marker is not what it must be.
  """
  if dtype and dtype not in specs.DTYPES:
    raise UserError(f'scorer_dtype={dtype!r}: use one of {", ".join(specs.DTYPES)}.')
  source = os.fspath(path)
  folder = files.scorer_folder(os.path.expanduser(hub.resolve(source)))
  own = os.path.exists(os.path.join(folder, exports.SPEC))
  if adapter and adapter not in ADAPTERS:
    raise UserError(f'scorer_adapter={adapter!r}: {_known()}.')
  if own and not adapter:
    _check_no_separator(source, separator)
    return _own(source, folder, shardings, dtype)
  if not own:
    _check_no_workdir(source, folder)
  if not checkpoints.is_checkpoint(folder):
    raise UserError(
      f'{source}: neither a scorer of ours ({exports.SPEC}) nor a Hugging Face '
      f'checkpoint ({checkpoints.CONFIG}) is there; give the workdir of a train run, '
      'a folder of a public PRM, or hf:OWNER/NAME.'
    )
  told = None if adapter else checkpoints.read_about(folder)
  if told is not None:
    _check_no_separator(source, separator)
    return _exported(source, folder, told, shardings, dtype)
  return _public(source, folder, adapter, shardings, dtype, separator)


def _check_no_separator(source: str, separator: str) -> None:
  if separator:
    raise UserError(
      f'scorer_separator={separator!r}: {source} says itself how its steps end; leave '
      'it out.'
    )


def _check_no_workdir(source: str, folder: str) -> None:
  """A workdir without a scorer has a config.json too: that of the job."""
  if not checkpoints.is_checkpoint(folder):
    return
  job = checkpoints.read_config(folder).get('job')
  if job is None:
    return
  if files.policy_folder(folder) != folder:
    raise UserError(
      f'{source}: holds a policy, not a scorer; give the workdir of a PRM.'
    )
  if job == 'train':
    raise UserError(
      f'{source}: a train run that has not finished; run its command again.'
    )
  raise UserError(
    f'{source}: the workdir of the job {job!r}, which holds no scorer; give that of a '
    'train run.'
  )


def _known() -> str:
  return (
    f'name the family with scorer_adapter=NAME (in Python adapter=NAME), one of '
    f'{", ".join(ADAPTERS)}'
  )


def _own(source: str, folder: str, shardings: Shardings | None, dtype: str) -> Loaded:
  held = epath.Path(folder) / exports.SPEC
  told = jsonl.parse_object(jsonl.read_bytes(held), str(held))
  spec, params, tokenizer = exports.load_scorer(folder, shardings)
  if dtype:
    model = dataclasses.replace(spec.model, param_dtype=dtype, compute_dtype=dtype)
    spec = dataclasses.replace(spec, model=model)
    params = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params)
  about = About(
    OWN, OWN, source, folder, hub.revision(folder), told['model_hash'], 'parameters',
    spec.step_format.extends,
  )  # fmt: skip
  return spec, params, tokenizer, about


def _exported(
  source: str,
  folder: str,
  told: dict[str, Any],
  shardings: Shardings | None,
  dtype: str,
) -> Loaded:
  """A Hugging Face folder that this library wrote: its spec is beside the weights."""
  if told.get('kind') != 'scorer':
    raise UserError(
      f'{source}: holds a {told.get("kind")}, where a scorer is needed; to read it as '
      f'an implicit PRM, {_known()}.'
    )
  ckpt = checkpoints.open_checkpoint(folder)
  where = f'{os.path.join(folder, checkpoints.ABOUT)}: spec'
  spec = specs.from_dict(ScorerSpec, told['spec'], where)
  if dtype:
    model = dataclasses.replace(spec.model, param_dtype=dtype, compute_dtype=dtype)
    spec = dataclasses.replace(spec, model=model)
  places = None
  if shardings is not None:
    places = shardings(weights.declare(spec.model, spec.head))
  params = loading.load(ckpt, spec.model, spec.head, places)
  tokenizer = tokenizers.load('bytes' if spec.tokenizer == 'bytes' else folder)
  if tokenizer.fingerprint != told['tokenizer_fingerprint']:
    raise UserError(
      f'{folder}: not the tokenizer that the scorer was exported with (another '
      'fingerprint); export or copy it again.'
    )
  exports.check_reading(spec, tokenizer, where)
  about = About(
    EXPORTED, OWN, source, folder, hub.revision(folder), sampled_digest(ckpt), SAMPLED,
    spec.step_format.extends,
  )  # fmt: skip
  return spec, params, tokenizer, about


def _public(
  source: str,
  folder: str,
  name: str,
  shardings: Shardings | None,
  dtype: str,
  separator: str,
) -> Loaded:
  ckpt = checkpoints.open_checkpoint(folder)
  model = _model(ckpt, folder, dtype)
  tokenizer = tokenizers.load(folder, model.vocab_size)
  family = ADAPTERS[name] if name else recognise(source, ckpt, tokenizer)
  spec = make_spec(family, ckpt, model, tokenizer, separator)
  places = None
  if shardings is not None:
    places = shardings(weights.declare(spec.model, spec.head))
  params = loading.load(ckpt, spec.model, spec.head, places)
  about = About(
    family.name, family.reference, source, folder, hub.revision(folder),
    sampled_digest(ckpt), SAMPLED, spec.step_format.extends, family.note,
  )  # fmt: skip
  return spec, params, tokenizer, about


def recognise(source: str, ckpt: Checkpoint, tokenizer: Tokenizer) -> Adapter:
  """The family of a checkpoint.

  Raises:
    UserError: none or several fit.
  """
  tokens = [t for t in adapters.special_tokens() if len(tokenizer.encode(t)) == 1]
  found = adapters.candidates(_name(source, ckpt), ckpt.values, ckpt.names, tokens)
  if len(found) == 1:
    return found[0]
  what = 'no family of public PRMs fits'
  if found:
    what = f'several families fit ({", ".join(a.name for a in found)})'
  raise UserError(f'{source}: {what}; {_known()}.')


def _name(source: str, ckpt: Checkpoint) -> str:
  """OWNER/NAME on the Hub or in its cache, else the folder's name."""
  if hub.is_name(source):
    return source.removeprefix(hub.PREFIX).partition('@')[0]
  folder = ckpt.folder
  return folder.parent.parent.name if hub.revision(folder) else folder.name


def _stored_dtype(ckpt: Checkpoint) -> str:
  """Of the largest tensor; half and single precision are kept."""
  largest = max(ckpt.names, key=lambda n: tuple(sorted(ckpt.shape(n), reverse=True)))
  dtype = str(ckpt.dtype(largest))
  return dtype if dtype in specs.DTYPES else 'float32'


def make_spec(
  family: Adapter,
  ckpt: Checkpoint,
  model: ModelSpec,
  tokenizer: Tokenizer,
  separator: str = '',
) -> ScorerSpec:
  """The scorer that a checkpoint of a family is; reads no weights.

  Args:
    family: of `ADAPTERS`.
    ckpt, model, tokenizer: of the folder.
    separator: replaces the family's marker where that is an ordinary text.

  Raises:
    UserError: marker or label tokens are not single tokens, have another id than in
      the public vocabulary, or the tokenizer has more ids than the model.
  """
  where = str(ckpt.folder)
  loading.check_vocabulary(model, tokenizer.vocab_size, where)
  fmt = _format(family, ckpt, tokenizer)
  if separator:
    if fmt.marker_in_text == 'refuse' or family.chat:
      raise UserError(
        f'scorer_separator={separator!r}: the steps of {family.name} end with '
        f'{fmt.marker!r}; leave it out.'
      )
    fmt = dataclasses.replace(fmt, marker=separator)
  _check_ids(family, fmt, model, ckpt.config.get('model_type'), tokenizer, where)
  head = _head(family.head, ckpt)
  if family.labels:
    ids = tuple(_single(tokenizer, text, where) for text in family.labels)
    head = dataclasses.replace(head, label_tokens=ids)
  try:
    step_format.check(fmt, tokenizer, head=head, vocab_size=model.vocab_size)
  except UserError as e:
    raise UserError(f'{where}, read as {family.name}: {e}') from e
  return ScorerSpec(
    model, head, fmt, family.step_value, family.kind, family.reduction,
    family.coefficient, family.end, tokenizers.FILE,
  )  # fmt: skip


def _head(head: HeadSpec, ckpt: Checkpoint) -> HeadSpec:
  """With a bias if the checkpoint has one."""
  if head.kind not in ('scalar', 'linear'):
    return head
  biases = ('score.bias', 'v_head.summary.bias')
  return dataclasses.replace(head, bias=any(b in ckpt.names for b in biases))


def _format(family: Adapter, ckpt: Checkpoint, tokenizer: Tokenizer) -> StepFormat:
  fmt = family.format
  template = chat_template.load_template(ckpt.folder) if family.chat else None
  if template is not None:
    fmt = _from_chat(family, fmt, template, tokenizer)
  longest = ckpt.values.size('max_position_embeddings', LONGEST)
  return dataclasses.replace(
    fmt,
    add_bos=family.bos and tokenizer.bos_id is not None,
    max_length=min(longest, LONGEST),
  )


def _from_chat(
  family: Adapter, fmt: StepFormat, template: str, tokenizer: Tokenizer
) -> StepFormat:
  """The format with the folder's own chat template in place of the built-in text."""
  specials = getattr(tokenizer, 'names', {})
  if family.chat == 'question':
    text = chat_template.question_template(
      template, system=family.system, specials=specials
    )
    strip = chat_template.trims(template, specials=specials)
    return dataclasses.replace(fmt, question_template=text, strip=strip)
  turns = chat_template.turn_templates(
    template, system=family.system, specials=specials
  )
  return dataclasses.replace(fmt, **dataclasses.asdict(turns))


def _check_ids(
  family: Adapter,
  fmt: StepFormat,
  model: ModelSpec,
  model_type: Any,
  tokenizer: Tokenizer,
  where: str,
) -> None:
  """Marker and labels are single tokens, and those of the public vocabulary."""
  least, most = family.vocabulary
  public = least <= model.vocab_size <= most and model_type == family.model_types[0]
  for text, expected in family.ids:
    if text == family.format.marker and fmt.marker != text:
      continue
    found = _single(tokenizer, text, where)
    if public and found != expected:
      raise UserError(
        f'{where}: its tokenizer gives {text!r} the id {found}, in {family.models} it '
        f'is {expected}; take the tokenizer that belongs to the model.'
      )


def _single(tokenizer: Tokenizer, text: str, where: str) -> int:
  ids = tokenizer.encode(text)
  if len(ids) != 1:
    raise UserError(
      f'{where}: {text!r} must be one token and is {len(ids)} of this tokenizer '
      f'({ids[:8]}); take the tokenizer that belongs to the model, or another adapter.'
    )
  return ids[0]


def sampled_digest(ckpt: Checkpoint) -> str:
  """SHA-256 over config.json and of each tensor name, type, shape and first row.

  It reads some megabytes of a model of any size. Models that differ in a matrix
  beyond its first row alone have the same digest; training changes first rows too.
  """
  digest = hashlib.sha256(json.dumps(ckpt.config, sort_keys=True).encode())
  for name in sorted(ckpt.names):
    shape = ckpt.shape(name)
    digest.update(f'\0{name}\0{ckpt.dtype(name)}\0{list(shape)}\0'.encode())
    rows = ckpt.read(name, 0, 1) if len(shape) > 1 else ckpt.read(name)
    digest.update(rows.tobytes())
  return digest.hexdigest()


def language_model(
  path: str | os.PathLike[str],
  *,
  shardings: Shardings | None = None,
  dtype: str = '',
) -> tuple[Callable[[], tuple[ScorerSpec, dict[str, Any], Tokenizer]], About]:
  """A causal language model, as the reference of implicit PRMs.

  Args:
    path, shardings, dtype: as for `load_scorer`; a Hugging Face folder.

  Returns:
    (function that loads spec, parameters and tokenizer, about); no weights are read
    before it is called.

  Raises:
    UserError: no checkpoint is there.
  """
  source = os.fspath(path)
  folder = os.path.expanduser(hub.resolve(source))
  ckpt = checkpoints.open_checkpoint(folder)

  def load() -> tuple[ScorerSpec, dict[str, Any], Tokenizer]:
    model = _model(ckpt, folder, dtype)
    head = HeadSpec('lm')
    places = None
    if shardings is not None:
      places = shardings(weights.declare(model, head))
    spec = ScorerSpec(model, head, StepFormat(marker=''), 'log_ratio', 'log_ratio')
    words = tokenizers.load(folder, model.vocab_size)
    return spec, loading.load(ckpt, model, head, places), words

  about = About(
    'language model', 'fixture', source, folder, hub.revision(folder),
    sampled_digest(ckpt), SAMPLED, True,
  )  # fmt: skip
  return load, about


def model_of(path: str | os.PathLike[str], dtype: str = '') -> ModelSpec:
  """The model of a Hugging Face folder, without its weights; as `language_model`."""
  folder = os.path.expanduser(hub.resolve(os.fspath(path)))
  return _model(checkpoints.open_checkpoint(folder), folder, dtype)


def _model(ckpt: Checkpoint, folder: str, dtype: str) -> ModelSpec:
  return architectures.model_spec(
    ckpt.config,
    folder,
    param_dtype=dtype or _stored_dtype(ckpt),
    compute_dtype=dtype or 'float32',
  )
