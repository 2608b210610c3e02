"""What a search costs, and what the majority vote makes of the same compute.

Estimated FLOPs of a problem: 2 W_policy (tokens generated + tokens read) + 2 W_PRM
(tokens read). W are the elements of the matrices that a token is multiplied with, a
language model's output matrix among them; the table of the embedding is looked up and
not counted, nor is attention to the tokens before (on long contexts it should be). All
layers of the PRM count whole, and those of an implicit PRM's reference beside them.

At equal compute: a bank of samples of a problem gives the majority vote of every N and
what it costs on average, without a PRM. A search of mean cost F over a set of problems
is held against the mixture of the two N whose mean costs enclose F, in the shares that
make the mean cost exactly F: on each problem the vote of the larger N with that chance,
else of the smaller. The differences are paired by problem; the mixture stays the same
in all resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prm_jax.evaluation import hypothesis_tests, intervals
from prm_jax.evaluation.intervals import Estimate, Resamples
from prm_jax.models import weights
from prm_jax.specs import HeadSpec, ModelSpec


def parameters(spec: ModelSpec, head: HeadSpec) -> int:
  """W: elements of the matrices that every token is multiplied with."""
  layer = sum(w.size for k, w in weights.layer(spec, 0).items() if k.startswith('w'))
  output = spec.vocab_size * spec.d_model if head.kind == 'lm' else 0
  return spec.n_layers * layer + output


@dataclasses.dataclass(frozen=True)
class Prices:
  """Parameters that count, of both models; None where they are not known."""

  policy: int | None
  prm: int | None

  def flops(self, counts: Mapping[str, int]) -> int | None:
    """Of the counts that a search keeps of a problem; None if a size is not known.

    >>> counts = {'policy_generated': 10, 'policy_read': 2, 'prm_read': 5}
    >>> Prices(1000, 100).flops(counts)
    25000
    """
    read = counts.get('prm_read', 0)
    if self.policy is None or (read and self.prm is None):
      return None
    tokens = counts.get('policy_generated', 0) + counts.get('policy_read', 0)
    return 2 * self.policy * tokens + 2 * (self.prm or 0) * read


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
  """One way to answer A problems.

  Attributes:
    name: of the search and of the rule that picks its answer.
    right: [A] chance that the answer is right.
    flops: [A] estimated, NaN where not known.
    policy_tokens, prm_tokens: [A] generated and read; read.
    guided: whether a PRM has a say in it.
  """

  name: str
  right: np.ndarray
  flops: np.ndarray
  policy_tokens: np.ndarray
  prm_tokens: np.ndarray
  guided: bool = True

  def take(self, problems: np.ndarray) -> Method:
    """Of these problems alone."""
    return dataclasses.replace(
      self,
      right=self.right[problems],
      flops=self.flops[problems],
      policy_tokens=self.policy_tokens[problems],
      prm_tokens=self.prm_tokens[problems],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
  """A selector at every N of a bank, K of them.

  Attributes:
    name: of the selector.
    sizes: [K] rising N.
    methods: [K].
  """

  name: str
  sizes: tuple[int, ...]
  methods: tuple[Method, ...]

  def take(self, problems: np.ndarray) -> Line:
    """Of these problems alone."""
    return Line(self.name, self.sizes, tuple(m.take(problems) for m in self.methods))


@dataclasses.dataclass(frozen=True, eq=False)
class Equal:
  """The majority vote at the compute of a search.

  Attributes:
    n: N, a fraction where two are mixed; None where the bank does not reach so far.
    right: [A] chance that the vote is right.
  """

  n: float | None
  right: np.ndarray


def at_equal_compute(method: Method, majority: Line) -> Equal:
  """See the module. A search that is cheaper than one sample is held against one."""
  budget = float(method.flops.mean())
  costs = np.array([m.flops.mean() for m in majority.methods])
  nothing = Equal(None, np.full(len(method.right), np.nan))
  if not np.isfinite(budget) or budget > costs[-1] * (1 + 1e-12):
    return nothing
  if budget <= costs[0]:
    return Equal(float(majority.sizes[0]), majority.methods[0].right)
  above = min(int(np.searchsorted(costs, budget)), len(costs) - 1)
  share = (budget - costs[above - 1]) / (costs[above] - costs[above - 1])
  mix = lambda low, high: (1 - share) * low + share * high
  n = mix(majority.sizes[above - 1], majority.sizes[above])
  low, high = majority.methods[above - 1].right, majority.methods[above].right
  return Equal(float(n), mix(low, high))


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A method beside the majority vote at equal compute.

  Attributes:
    method: its name.
    guided: see `Method`.
    right: share solved.
    majority: of the vote, and `n` its N; None where the bank is too small.
    difference: paired.
    p: two-sided sign-flip P value of the difference, and `p_holm` after Holm among
      those tested together; None where not tested.
    flops, policy_tokens, prm_tokens: means over problems.
    chosen: whether it was chosen beforehand, and so is tested alone.
    shown: 'better', 'worse', 'not shown', 'beyond the bank', or 'no FLOPs' where the
      size of a model is not known.
  """

  method: str
  guided: bool
  right: Estimate
  majority: Estimate
  n: float | None
  difference: Estimate
  p: float | None
  p_holm: float | None
  flops: Estimate
  policy_tokens: Estimate
  prm_tokens: Estimate
  chosen: bool = False
  shown: str = ''

  def row(self) -> dict[str, Any]:
    """JSON-ready."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      out[field.name] = value.metric() if isinstance(value, Estimate) else value
    return out


def choose(methods: Sequence[Method], majority: Line) -> str | None:
  """The guided method that is most surely above the majority vote at equal compute.

  Of the paired difference, mean - 1.96 standard errors counts: the largest of many
  noisy means is more often a lucky one than the best one. By name; the first of
  equals; None without one that the bank reaches.
  """
  best, found = -np.inf, None
  for method in methods:
    gain = method.right - at_equal_compute(method, majority).right
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    low = float(gain.mean() - 1.96 * error)
    if method.guided and low > best + 1e-12:
      best, found = low, method.name
  return found


def compare(
  methods: Sequence[Method],
  majority: Line | None,
  sample: Resamples,
  *,
  chosen: str | None = None,
  n_flips: int = hypothesis_tests.N_FLIPS,
  seed: int = 0,
) -> list[Verdict]:
  """Every method beside the majority vote at equal compute, on the same problems.

  Args:
    methods: to compare, each of its own name: metrics and `chosen` go by it.
    majority: votes of the bank, without a PRM; None compares nothing.
    sample: of the problems.
    chosen: name of the method that was chosen on other problems. It is tested alone;
      the P values of all others are corrected together (Holm).
    n_flips, seed: of the sign-flip test.

  Returns:
    One a method, in order. 'better' needs an interval above 0, and for all but the
    chosen one a corrected P value below 5 %.
  """
  names = [m.name for m in methods]
  assert len(set(names)) == len(names), f'methods of one name: {sorted(names)}'
  a = len(sample.weights[0])
  equals = [
    at_equal_compute(m, majority) if majority else Equal(None, np.full(a, np.nan))
    for m in methods
  ]
  parts = [m.right - e.right for m, e in zip(methods, equals)]
  known = [i for i, e in enumerate(equals) if e.n is not None]
  p: dict[int, float] = {}
  if known:
    columns = np.stack([parts[i] for i in known], axis=1)
    tests = hypothesis_tests.sign_flip(columns, n_flips=n_flips, seed=seed)
    p = {i: t.p for i, t in zip(known, tests) if t.p is not None}
  others = [i for i in p if methods[i].name != chosen]
  corrected = dict(zip(others, hypothesis_tests.holm([p[i] for i in others])))
  out = []
  for i, (m, e) in enumerate(zip(methods, equals)):
    held = [m.right, e.right, parts[i], m.flops, m.policy_tokens, m.prm_tokens]
    right, vote, gain, flops, policy, prm = intervals.means(
      np.stack(held, axis=1), sample
    )
    verdict = Verdict(
      m.name, m.guided, right, vote, e.n, gain, p.get(i), corrected.get(i), flops,
      policy, prm, chosen=m.name == chosen,
    )  # fmt: skip
    out.append(dataclasses.replace(verdict, shown=_shown(verdict)))
  return out


def _shown(v: Verdict) -> str:
  if v.n is None:
    return 'no FLOPs' if v.flops.value is None else 'beyond the bank'
  if v.difference.low is None or v.difference.high is None:
    return 'not shown'
  sure = v.chosen or (v.p_holm is not None and v.p_holm < hypothesis_tests.ALPHA)
  if sure and v.difference.low > 0:
    return 'better'
  return 'worse' if sure and v.difference.high < 0 else 'not shown'
