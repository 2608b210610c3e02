"""From step scores to probabilities, as data: what `calibration.json` holds.

A map rises, so it changes no ranking (an isotonic one may make ties), and it says on
which rows it was fitted, so that nobody reports on those.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from prm_jax.errors import UserError

KINDS = ('platt', 'temperature', 'isotonic')
_PARAMETERS = {
  'platt': ('intercept', 'slope'),
  'temperature': ('temperature',),
  'isotonic': ('scores', 'values'),
}
# Below, a float32 probability still has digits; above 1 - 2^-25 it is 1.
_LOW, _HIGH = 1e-30, 2.0**-25


@dataclasses.dataclass(frozen=True)
class CalibrationMap:
  """A rising function from a score to a probability.

    platt         sigmoid(slope * z + intercept)                   (Platt 1999)
    temperature   sigmoid(z / temperature)                         (Guo et al. 2017)
    isotonic      piecewise linear through (scores, values), constant outside
                                                    (Zadrozny & Elkan 2002)

  z is the score itself, of probabilities their log odds.

  Attributes:
    kind: one of `KINDS`.
    source: kind of the scores it reads: 'logit', 'probability', 'log_ratio'.
    parameters: name -> numbers, as above.
    truth: label set it was fitted to.
    fitted_on: name of the split.
    data_hash: of the ids and labels of the rows it was fitted on.
    problem_ids: their problems, sorted.
    model_hash: of the scorer, '' if unknown.
    margin: of quantile heads: the interval from the lowest quantile minus it to the
      highest plus it covers what the quantiles promise; None for other scorers.

  Raises:
    UserError: the kind is unknown, or the parameters do not fit it.
  """

  kind: str
  source: str
  parameters: dict[str, tuple[float, ...]]
  truth: str = ''
  fitted_on: str = ''
  data_hash: str = ''
  problem_ids: tuple[str, ...] = ()
  model_hash: str = ''
  margin: float | None = None

  def __post_init__(self) -> None:
    if self.kind not in KINDS:
      raise UserError(
        f'calibration kind {self.kind!r} is unknown; it is one of {", ".join(KINDS)}.'
      )
    held = {k: np.asarray(v, np.float64) for k, v in self.parameters.items()}
    sound = tuple(sorted(held)) == _PARAMETERS[self.kind]
    sound = sound and all(x.ndim == 1 and np.isfinite(x).all() for x in held.values())
    if sound and self.kind == 'isotonic':
      x, y = held['scores'], held['values']
      rises = (
        len(x) == len(y) > 0 and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
      )
      sound = bool(rises)
    elif sound:
      sound = all(len(x) == 1 for x in held.values())
      sound = sound and all(
        held[k][0] > 0 for k in ('slope', 'temperature') if k in held
      )
    if not sound:
      raise UserError(
        f'calibration of kind {self.kind!r}: its parameters do not make a rising map; '
        'fit it again.'
      )

  def apply(self, scores: np.ndarray) -> np.ndarray:
    """Probabilities of scores of any shape, float64.

    >>> half = CalibrationMap('temperature', 'logit', {'temperature': (2.0,)})
    >>> half.apply(np.array([0.0, 2.0])).round(3).tolist()
    [0.5, 0.731]
    """
    x = np.asarray(scores, np.float64)
    held = self.parameters
    if self.kind == 'isotonic':
      return np.interp(x, held['scores'], held['values'])
    z = log_odds(x) if self.source == 'probability' else x
    if self.kind == 'platt':
      z = held['slope'][0] * z + held['intercept'][0]
    else:
      z = z / held['temperature'][0]
    return np.exp(-np.logaddexp(0.0, -z))

  def to_dict(self) -> dict[str, Any]:
    """Plain values, ready for JSON."""
    return dataclasses.asdict(self)


def from_dict(values: dict[str, Any], where: str) -> CalibrationMap:
  """The map of `to_dict`'s result or parsed JSON.

  Raises:
    UserError: a key is unknown or missing, or the map is not sound.
  """
  names = {f.name for f in dataclasses.fields(CalibrationMap)}
  if set(values) != names or not isinstance(values['parameters'], dict):
    raise UserError(
      f'{where}: a calibration holds {", ".join(sorted(names))}; fit it again.'
    )
  held = {
    k: tuple(float(x) for x in v) if isinstance(v, list) else v
    for k, v in values['parameters'].items()
  }
  changed = {'parameters': held, 'problem_ids': tuple(values['problem_ids'])}
  return CalibrationMap(**{**values, **changed})


def log_odds(probabilities: np.ndarray) -> np.ndarray:
  """ln(p / (1 - p)), finite also at 0 and 1, strictly rising over float32 values."""
  p = np.asarray(probabilities, np.float64)
  return np.log(np.maximum(p, _LOW)) - np.log(np.maximum(1 - p, _HIGH))
