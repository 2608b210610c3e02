"""What the server's endpoints ask and answer, without HTTP.

An endpoint turns a body (parsed JSON) into a `Query`: encoded rows for the scorer, and
the function from their step values to the answer. A body that cannot be answered is
refused with one sentence: `Refusal`, or `UserError` for mistakes that files can have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.formats import splitting
from prm_jax.formats.splitting import Splitter
from prm_jax.formats.step_format import Encoded, Unusable
from prm_jax.inference.scorer import Scorer
from prm_jax.records import Check, Trajectory
from prm_jax.specs import TextFormat
from prm_jax.step_values import REDUCTIONS, check_reduction, sigmoid

WHERE = 'request'


class Refusal(UserError):
  """A request that is refused; `status` is that of HTTP."""

  def __init__(self, message: str, status: int = 400):
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Query:
  """Rows to score, and the answer from their step values, float32 [P] each."""

  rows: Sequence[Encoded]
  answer: Callable[[list[np.ndarray]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one request may hold.

  Attributes:
    rows: solutions.
    steps: of a solution.
  """

  rows: int = 1024
  steps: int = 1000


class Service:
  """A scorer as other programs ask for it.

  Args:
    scorer: its `encode` is used; step values come from elsewhere (`batching`).
    name: of the model, in requests and answers.
    reduction: of step values to one score.
    text: how the policy writes that /get_reward is asked about.
    splitter: how its responses become steps.
    unusable_reward: of /get_reward for what cannot be scored; None refuses it.
    limits: see there.

  Attributes:
    kind: of the scores, after calibration.

  Raises:
    UserError: a reduction that does not fit the scores, or a text format or splitter
      that cannot take a query apart.
  """

  def __init__(
    self,
    scorer: Scorer,
    *,
    name: str,
    reduction: str,
    text: TextFormat,
    splitter: Splitter,
    unusable_reward: float | None = None,
    limits: Limits = Limits(),
  ):
    self.kind = scorer.kind
    check_reduction(reduction, self.kind)
    if text.question_template.count('{question}') != 1:
      raise UserError(
        f'text.question_template={text.question_template!r} must contain '
        "'{question}' exactly once."
      )
    if splitter.how in splitting.TOKEN_HOWS:
      raise UserError(
        f'splitting.how={splitter.how!r} needs the log-probabilities of tokens, which '
        'no request carries; choose another way to split.'
      )
    self.scorer = scorer
    self.name = name
    self.reduction = reduction
    self.limits = limits
    self._text = text
    self._splitter = splitter
    self._unusable_reward = unusable_reward

  def score(self, body: Any) -> Query:
    """POST /score.

    Args:
      body: {'question', 'steps'}, or {'solutions': [such, ...]}, or a list of such.

    Returns:
      Of one: {'model', 'kind', 'reduction', 'scores': [P], 'score'}; of several
      {..., 'results': [{'scores', 'score'}, ...]}. A step that truncation dropped has
      the score null.
    """
    check = Check(WHERE)
    several = isinstance(body, list) or (isinstance(body, dict) and 'solutions' in body)
    if isinstance(body, list):
      body = {'solutions': body}
    body = check.mapping('body', body)
    self.check_model(body)
    if several:
      known_fields(body, ('model', 'solutions'))
      asked = check.items('solutions', body['solutions'])
    else:
      asked = [{k: v for k, v in body.items() if k != 'model'}]
    solutions = [
      self._solution(v, f'solution {i}' if several else WHERE)
      for i, v in enumerate(asked)
    ]
    rows = self.encode(solutions)
    told = {
      'model': self.name,
      'kind': self.kind,
      'reduction': self.reduction,
    }

    def answer(values: list[np.ndarray]) -> dict[str, Any]:
      found = [
        {'scores': padded(v, t.n_steps), 'score': self.reduced(v)}
        for v, t in zip(values, solutions)
      ]
      return told | ({'results': found} if several else found[0])

    return self.query(rows, answer)

  def get_reward(self, body: Any) -> Query:
    """POST /get_reward, as OpenRLHF's trainer calls it.

    Args:
      body: {'query': [text], 'prompts': [text], 'labels': [any]}. A query is a prompt
        with its response, special tokens kept; `labels` are not read.

    Returns:
      {'rewards': [R], 'scores': [R] in [0, 1], 'extra_logs': {name: [R]}}: one number a
      sample, which is all that the trainer can take. Beside them for process rewards
      `step_scores` [R][P], and `step_ends` [R][P]: where each step ends in its query,
      in characters.
    """
    check = Check(WHERE)
    body = check.mapping('body', body)
    self.check_model(body)
    known_fields(body, ('model', 'query', 'prompts', 'labels'))
    queries = check.texts('query', body.get('query'))
    prompts = check.texts('prompts', body.get('prompts'))
    labels = body.get('labels')
    if labels is not None:
      check.items('labels', labels, len(queries))
    if len(prompts) != len(queries):
      raise Refusal(
        f"request: 'query' has {len(queries)} entries and 'prompts' {len(prompts)}; "
        'give the prompt of each query.'
      )
    parts = [self._parts(i, q, p) for i, (q, p) in enumerate(zip(queries, prompts))]
    solutions = [solution for solution, _ in parts]
    rows = self._usable(solutions, refuse=self._unusable_reward is None)
    kept = [i for i, row in enumerate(rows) if isinstance(row, Encoded)]

    def answer(values: list[np.ndarray]) -> dict[str, Any]:
      none = np.zeros(0, np.float32)
      held = dict(zip(kept, values))
      found = [held.get(i, none) for i in range(len(rows))]
      rewards = [self._reward(v) for v in found]
      return {
        'rewards': rewards,
        'scores': [self._between_0_and_1(r) for r in rewards],
        'extra_logs': {
          'n_steps': [float(t.n_steps) for t in solutions],
          'steps_scored': [float(len(v)) for v in found],
          'min_step': [float(v.min()) if len(v) else r for v, r in zip(found, rewards)],
          'mean_step': [
            float(v.mean()) if len(v) else r for v, r in zip(found, rewards)
          ],
          'unusable': [float(not len(v)) for v in found],
        },
        'step_scores': [padded(v, t.n_steps) for v, t in zip(found, solutions)],
        'step_ends': [ends for _, ends in parts],
      }

    return self.query([row for row in rows if isinstance(row, Encoded)], answer)

  def models(self, created: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """GET /v1/models."""
    card = {
      'id': self.name,
      'object': 'model',
      'created': created,
      'owned_by': 'prm_jax',
      'root': about['source'],
      'max_model_len': self.scorer.spec.step_format.max_length,
      'scorer': {**about, 'reduction': self.reduction},
    }
    return {'object': 'list', 'data': [card]}

  def query(
    self,
    rows: Sequence[Encoded],
    answer: Callable[[list[np.ndarray]], dict[str, Any]],
  ) -> Query:
    """A query whose answer is made of the scores: calibrated, if the scorer is."""
    fitted = self.scorer.calibration
    if fitted is None:
      return Query(rows, answer)
    return Query(rows, lambda values: answer([fitted.apply(v) for v in values]))

  def check_model(self, body: Mapping[str, Any]) -> None:
    """Refuses a request for another model; none, or null, is fine."""
    name = body.get('model')
    if name is not None and name != self.name:
      raise Refusal(
        f'request: the model {name!r} is not here; this server has {self.name!r}.', 404
      )

  def encode(self, solutions: Sequence[Trajectory]) -> list[Encoded]:
    """Rows of the scorer; refuses what it cannot read."""
    rows = self._usable(solutions, refuse=True)
    return [row for row in rows if isinstance(row, Encoded)]

  def reduced(self, values: np.ndarray) -> float:
    """One score of a solution."""
    return float(REDUCTIONS[self.reduction](values, None))

  def solution(self, question: str, steps: Sequence[str], where: str) -> Trajectory:
    """A record of one solution, validated like one from a file."""
    return self._solution({'question': question, 'steps': list(steps)}, where)

  def _solution(self, value: Any, where: str) -> Trajectory:
    check = Check(where)
    known_fields(check.mapping('solution', value), ('question', 'steps'), where)
    steps = value.get('steps')
    if isinstance(steps, (list, tuple)) and len(steps) > self.limits.steps:
      raise Refusal(
        f'{where}: {len(steps)} steps are more than the {self.limits.steps} that this '
        'server takes; send a shorter solution.'
      )
    if isinstance(steps, (list, tuple)) and not steps:
      raise Refusal(f'{where}: it has no steps; send at least one.')
    return records.from_dict({**value, 'id': where}, where)

  def _usable(
    self, solutions: Sequence[Trajectory], *, refuse: bool
  ) -> list[Encoded | Unusable]:
    self.check_count(len(solutions))
    rows = self.scorer.encode(solutions)
    for t, row in zip(solutions, rows):
      if refuse and isinstance(row, Unusable):
        raise Refusal(
          f'{t.id}: it cannot be scored ({row}; this scorer reads '
          f'{self.scorer.spec.step_format.max_length} tokens at most); change it or '
          'leave it out.'
        )
    return rows

  def check_count(self, n: int) -> None:
    """Refuses a request without rows, and one with too many."""
    if not 0 < n <= self.limits.rows:
      raise Refusal(
        f'request: it holds {n} solutions; send from 1 to {self.limits.rows} at once.'
      )

  def _parts(self, i: int, query: str, prompt: str) -> tuple[Trajectory, list[int]]:
    """The solution in a query, and where its steps end there."""
    before, after = self._text.question_template.split('{question}')
    if not (prompt.startswith(before) and prompt.endswith(after)):
      raise Refusal(
        f'request: prompts[{i}] does not read like text.question_template='
        f"{self._text.question_template!r}; start the server with the policy's own."
      )
    question = prompt[len(before) : len(prompt) - len(after)]
    found, here, response = query.partition(prompt) if prompt else ('', '', query)
    if here != prompt:
      raise Refusal(
        f'request: query[{i}] does not hold its prompt, prompts[{i}], so the response '
        'cannot be told apart; send both as the policy read them.'
      )
    if self._text.end:
      response = response.partition(self._text.end)[0]
    held = splitting.split(response, self._splitter)
    start = len(found) + len(prompt)
    where = f'query[{i}]'
    if len(held.steps) > self.limits.steps:
      raise Refusal(
        f'{where}: {len(held.steps)} steps are more than the {self.limits.steps} that '
        'this server takes.'
      )
    row = {'question': question, 'steps': list(held.steps), 'id': where}
    return records.from_dict(row, where), [start + end for _, end in held.spans]

  def _reward(self, values: np.ndarray) -> float:
    if len(values):
      return self.reduced(values)
    assert self._unusable_reward is not None
    return self._unusable_reward

  def _between_0_and_1(self, reward: float) -> float:
    if self.kind == 'probability':
      return min(max(reward, 0.0), 1.0)
    return float(sigmoid(np.asarray(reward)))


def known_fields(
  body: Mapping[str, Any], known: Sequence[str], where: str = WHERE
) -> None:
  """Refuses a field that means nothing here, unless it is null."""
  for name, value in body.items():
    if name not in known and value is not None:
      raise Refusal(
        f'{where}: field {name!r} is not known here; leave it out (known are '
        f'{", ".join(known)}).'
      )


def padded(values: np.ndarray, n: int) -> list[float | None]:
  """The values, and null for each of the n steps that has none."""
  return [*values.tolist(), *[None] * (n - len(values))]
