"""Holds an exported folder against transformers: same ids in, same outputs out.

    python tests/compare_with_transformers.py FOLDER CASE.json

Needs torch, transformers and safetensors, and nothing of this library. CASE.json holds
`input_ids` [B, T] and `outputs` [B, T, ...], what this library computes for them (the
head's outputs; of a causal language model logits, of `label_tokens` only, if given).
A folder that names its classes the usual way is loaded by the Auto class for it; for
the two that have none in transformers (process reward model, Gemma 3 with a score
layer) the head is put on AutoModel here. Prints one JSON line; exit code 1 where the
difference exceeds 1e-4 or a tensor was not taken.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open

TOLERANCE = 1e-4
HEAD = [f'score{i}.{x}' for i in ('', '.0', '.2') for x in ('weight', 'bias')]


def outputs_of(folder: Path, case: dict) -> tuple[torch.Tensor, list[str]]:
  """What transformers computes, and the names of tensors it did not find or take."""
  name = json.loads((folder / 'config.json').read_text())['architectures'][0]
  kinds = {
    'ForTokenClassification': transformers.AutoModelForTokenClassification,
    'ForCausalLM': transformers.AutoModelForCausalLM,
  }
  auto = next((cls for end, cls in kinds.items() if name.endswith(end)), None)
  ids = torch.tensor(case['input_ids'])
  model, about = (auto or transformers.AutoModel).from_pretrained(
    folder, output_loading_info=True, dtype=torch.float32, attn_implementation='eager'
  )
  odd = [*about['missing_keys'], *about['unexpected_keys']]
  model.eval()
  with torch.no_grad():
    if auto is not None:
      logits = model(ids).logits
      tokens = case.get('label_tokens')
      return (logits[..., tokens] if tokens else logits), odd
    hidden = model(ids).last_hidden_state
    return head(folder, hidden), [n for n in odd if not n.startswith('score.')]


def head(folder: Path, x: torch.Tensor) -> torch.Tensor:
  with safe_open(folder / 'model.safetensors', 'pt') as file:
    names = file.keys()
    held = {n: file.get_tensor(n).float() for n in HEAD if n in set(names)}
  if 'score.0.weight' in held:
    x = torch.nn.functional.linear(x, held['score.0.weight'], held['score.0.bias'])
    return torch.nn.functional.linear(
      x.relu(), held['score.2.weight'], held['score.2.bias']
    )
  return torch.nn.functional.linear(x, held['score.weight'], held.get('score.bias'))


def main(folder: str, case: str) -> int:
  held = json.loads(Path(case).read_text())
  theirs, odd = outputs_of(Path(folder), held)
  ours = torch.tensor(held['outputs'])
  ours = ours.reshape(theirs.shape)
  worst = float((ours - theirs).abs().max())
  told = {'folder': folder, 'max_difference': worst, 'spread': float(ours.std())}
  print(json.dumps({**told, 'odd_tensors': odd}))
  return int(worst > TOLERANCE or bool(odd))


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
