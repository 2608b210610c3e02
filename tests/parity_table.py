"""Prints, as Markdown, how far we are from transformers on the reference checkpoints.

    python tests/parity_table.py

Largest absolute difference over rows without, with right and with left padding;
float32.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import parity_cases  # noqa: E402  (found through the path above)


def main():
  columns = ('hidden', 'logits', 'probabilities', 'cached')
  print('| checkpoint | hidden states | logits | step probabilities | over the cache |')
  print('|---|---:|---:|---:|---:|')
  for case in parity_cases.CASES:
    found = parity_cases.differences(case)
    found['cached'] = parity_cases.cached_difference(case)
    cells = []
    for column in columns:
      worst = [v for name, v in found.items() if name.rpartition('/')[2] == column]
      cells.append(f'{max(worst):.1e}' if worst else '')
    print(f'| `{case}` | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
  main()
