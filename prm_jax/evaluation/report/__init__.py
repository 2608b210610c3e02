"""report.html: one self-contained page that shows a run to a person.

`write(path, ReportData(...))` writes it. The page loads nothing from anywhere, runs
no script but its own (a content security policy with hashes says so), and equal
data give equal bytes. Solutions and trees are listed 25 a page, filtered and searched
in the browser; `widget` shows the same in a notebook.

5,000 solutions of eight steps of 150 characters with two scorers are a page of 9.5 MB.
In headless Chromium 156 on 2 busy CPU cores it is there after 0.3 s (0.7 s for 4,894
solutions of language models); a filter takes 50 ms, another order 30 ms, a search in
all texts 200 ms; 18 MB of heap, 1,100 elements. `pytest -m slow -k usable
tests/test_report_browser.py` measures it again.
"""

from __future__ import annotations

import os

from prm_jax import jsonl
from prm_jax.evaluation.report.data import (
  DISAGREEMENTS,
  FAILURE_KINDS,
  LineChart,
  Reading,
  Reliability,
  ReportData,
  Row,
  Sample,
  Table,
  Tree,
  TreeNode,
  disagreement_kind,
  failure_kind,
  predicted_first_error,
  reading,
  sample,
)
from prm_jax.evaluation.report.page import render
from prm_jax.evaluation.report.samples import (
  of_evaluation,
  of_records,
  saved,
  side_by_side,
)
from prm_jax.evaluation.report.widget import Widget, widget

__all__ = [
  'DISAGREEMENTS',
  'FAILURE_KINDS',
  'LineChart',
  'Reading',
  'Reliability',
  'ReportData',
  'Row',
  'Sample',
  'Table',
  'Tree',
  'TreeNode',
  'Widget',
  'disagreement_kind',
  'failure_kind',
  'of_evaluation',
  'of_records',
  'predicted_first_error',
  'reading',
  'render',
  'sample',
  'saved',
  'side_by_side',
  'widget',
  'write',
]


def write(path: str | os.PathLike[str], data: ReportData) -> None:
  """Writes the page as UTF-8, whole or not at all.

  Raises:
    UserError: the place cannot be written.
    ValueError: a sample has not one score a step.
  """
  jsonl.write_bytes(path, render(data).encode('utf-8'))
