"""Solutions and trees inside a notebook: the report's own viewer, in a frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prm_jax.evaluation.report.data import ReportData, Sample, Tree
from prm_jax.evaluation.report.markup import tag
from prm_jax.evaluation.report.page import render
from prm_jax.evaluation.report.samples import of_records, saved
from prm_jax.records import Trajectory

Shown = Sample | Tree | Trajectory | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Widget:
  """What a notebook shows by itself as the last value of a cell.

  Attributes:
    page: the whole page, which loads nothing from anywhere.
    height: of the frame, in pixels.
  """

  page: str
  height: int

  def _repr_html_(self) -> str:
    # In the sandbox the page's script reaches nothing of the notebook around it.
    return tag(
      'iframe',
      srcdoc=str(self.page),  # plain text: to be escaped as a whole
      sandbox='allow-scripts',
      title='solutions',
      width='100%',
      height=self.height,
      style='border:0',
    )


def widget(
  rows: Iterable[Shown],
  *,
  scorers: Sequence[str] = (),
  truth: str = '',
  height: int = 720,
) -> Widget:
  """The viewer of a report, to be shown in a notebook.

  Args:
    rows: of `Sample`, `Tree`, records, or lines of a run's per-sample file.
    scorers, truth: for records, as in `of_records`.
    height: of the frame, in pixels.

  Raises:
    UserError: as `of_records` and `saved`.
  """
  given = list(rows)
  shown: list[Sample] = []
  if held := [r for r in given if isinstance(r, Trajectory)]:
    shown += of_records(held, scorers=scorers, truth=truth)[0]
  for row in given:
    if isinstance(row, Sample):
      shown.append(row)
    elif isinstance(row, Mapping):
      shown.append(saved(row))
  trees = [r for r in given if isinstance(r, Tree)]
  page = render(
    ReportData(title='', job='view', samples=shown, trees=trees, truth=truth)
  )
  return Widget(page, height)
