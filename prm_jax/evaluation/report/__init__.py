"""report.html: one self-contained page that shows a run to a person.

`write(path, ReportData(...))` writes it. The page loads nothing from anywhere, runs
no script but its own (a content security policy with hashes says so), and equal
data give equal bytes.
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
