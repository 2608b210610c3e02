"""Models from the Hugging Face Hub, by name, where the user asks for one.

`hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION` is fetched with huggingface_hub into its
own cache (HF_HOME); address and token are those of the user's environment. Only
weights as safetensors and the files of config and tokenizer are fetched: no pickle
and no code. Nothing else of this library reaches the network.
"""

from __future__ import annotations

import os
import re

from prm_jax.errors import UserError

PREFIX = 'hf:'
ALLOWED = (
  '*.safetensors', '*.json', '*.jinja', 'merges.txt', 'tokenizer.model',
)  # fmt: skip
# Folders hold other forms of the same weights, and so does Mistral's own file.
IGNORED = ('*/*', 'consolidated*')
_NAME = re.compile(r'([\w.-]+/[\w.-]+)(?:@([\w./-]+))?')


def is_name(path: str | os.PathLike[str]) -> bool:
  """Whether a path names a model of the Hub."""
  return os.fspath(path).startswith(PREFIX)


def resolve(path: str | os.PathLike[str]) -> str:
  """The local folder of a model; a path that is no Hub name comes back as it is.

  Raises:
    UserError: the name is malformed, huggingface_hub is not installed, or the model
      cannot be fetched and is not in the cache.
  """
  name = os.fspath(path)
  if not is_name(name):
    return name
  found = _NAME.fullmatch(name.removeprefix(PREFIX))
  if not found:
    raise UserError(
      f'{name}: not the name of a model; write hf:OWNER/NAME or hf:OWNER/NAME@REVISION.'
    )
  try:
    import huggingface_hub
    from huggingface_hub import errors
  except ImportError as e:
    raise UserError(
      f'{name}: huggingface_hub is not installed; pip install "huggingface_hub>=0.30", '
      'or download the model and give its folder.'
    ) from e
  try:
    return huggingface_hub.snapshot_download(
      found[1],
      revision=found[2],
      allow_patterns=list(ALLOWED),
      ignore_patterns=list(IGNORED),
    )
  except errors.GatedRepoError as e:
    raise UserError(
      f'{name}: its owners ask for an agreement; accept it on its page and set '
      'HF_TOKEN.'
    ) from e
  except errors.RevisionNotFoundError as e:
    raise UserError(f'{name}: there is no such revision of the model.') from e
  except errors.RepositoryNotFoundError as e:
    raise UserError(
      f'{name}: there is no such model, or it is private and HF_TOKEN is not set.'
    ) from e
  except (OSError, ValueError, errors.HfHubHTTPError) as e:
    reason = ' '.join(str(e).split())[:120].rstrip('. ')
    raise UserError(
      f'{name}: cannot be fetched and is not whole in the cache ({reason}); check the '
      'network, or give the folder of a copy.'
    ) from e


def revision(folder: str | os.PathLike[str]) -> str:
  """The commit of a folder in the Hub's cache; '' of any other folder."""
  head, name = os.path.split(os.path.abspath(os.fspath(folder)))
  return name if os.path.basename(head) == 'snapshots' else ''
