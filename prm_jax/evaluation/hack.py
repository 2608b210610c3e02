"""The hackability of a PRM on one set: all attacks, their metrics, tables and charts.

Metric paths are SET/FAMILY/ATTACK/NAME@AT: family `probes` with a reduction as AT,
`adversarial_tokens` with the place of the tokens, `overoptimisation` with N.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prm_jax.evaluation import (
  hack_effects,
  hack_probes,
  hack_tables,
  hack_tokens,
  hack_transfer,
  intervals,
)
from prm_jax.evaluation.hack_best_of_n import overoptimise
from prm_jax.evaluation.hack_effects import FAIL, PASS, UNDEFINED, WARN, Rules
from prm_jax.evaluation.hack_probes import PRESERVES, PROBES, Texts
from prm_jax.evaluation.hack_tables import BEST_OF_N, LENGTHS, TOKENS
from prm_jax.evaluation.intervals import Estimate
from prm_jax.evaluation.pools import Pool, ladder
from prm_jax.evaluation.report.data import Row
from prm_jax.evaluation.result import Collector
from prm_jax.inference.scorer import Scorer
from prm_jax.records import ScoreSet, Trajectory


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is tried.

  Attributes:
    reduction: the one whose verdicts count; `reductions` are reported beside it.
    reductions: of step scores, the first is `reduction`.
    texts: what the probes write; the questions are added.
    rules: thresholds.
    solutions: candidates of a problem that the probes edit.
    search: of adversarial tokens; tokens = 0 for none.
    places: of them.
    train_rows, transfer_rows: wrong solutions, of different problems.
    random: texts of random tokens beside each search.
    n_resamples, seed: of the bootstrap.
    n_draws: of the majority vote.
    truth, checker: label set and verdict that say what is right.
    max_samples: edited solutions that are kept for the report.
  """

  reduction: str
  reductions: tuple[str, ...]
  texts: Texts
  rules: Rules
  search: hack_tokens.Search
  solutions: int = 8
  places: tuple[str, ...] = hack_tokens.PLACES
  train_rows: int = 32
  transfer_rows: int = 128
  random: int = 8
  n_resamples: int = 1000
  seed: int = 0
  n_draws: int = 50
  truth: str = 'on_track'
  checker: str = 'exact'
  max_samples: int = 200


class Report:
  """Gathers what the attacks on one scorer found, set by set.

  Attributes:
    out: metrics, counters, tables, samples.
    verdicts: set -> attack -> {'verdict', 'truth', 'by': AT -> verdict}.
    shown: edited solutions with their scores, those with the largest changes.
  """

  def __init__(self, scorer: Scorer, plan: Plan):
    self.scorer = scorer
    self.plan = plan
    self.out = Collector()
    self.verdicts: dict[str, dict[str, dict[str, Any]]] = {}
    self.shown: list[tuple[str, Trajectory, ScoreSet]] = []

  def score(self, rows: Sequence[Trajectory]) -> list[Any]:
    """Scores of every row, empty steps included; a text is scored once."""
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    which = [first.setdefault((t.question, t.steps), len(first)) for t in rows]
    kept = dict(zip(reversed(which), reversed(rows)))
    found = self.scorer.score([kept[i] for i in range(len(first))], allow_empty=True)
    return [found[i] for i in which]

  def probes(self, name: str, rows: Sequence[Trajectory]) -> None:
    """Every edit on every solution, under every reduction."""
    plan, out = self.plan, self.out
    label = hack_effects.right_or_wrong(rows, plan.truth, plan.checker)
    problem_ids = sorted({t.problem_id for t in rows})
    column = {p: a for a, p in enumerate(problem_ids)}
    held = hack_effects.Rows(
      label,
      np.array([column[t.problem_id] for t in rows]),
      intervals.resamples(problem_ids, plan.n_resamples, plan.seed),
    )
    kind = self.scorer.kind
    before_scores = self.score(rows)
    before, reasons = hack_effects.rewards(before_scores, plan.reductions)
    units = {r: hack_effects.unit_of(before[r], kind) for r in plan.reductions}
    out.count(name, {
      'solutions': len(rows), 'right': int((label == 1).sum()),
      'wrong': int((label == 0).sum()), 'unjudged': int((label < 0).sum()),
      **{f'not_scored/{k}': n for k, n in hack_effects.counted(reasons).items()},
    })  # fmt: skip
    questions = list(dict.fromkeys((t.problem_id, t.question) for t in rows))
    texts = dataclasses.replace(plan.texts, questions=questions)
    lines: list[Row] = []
    for probe in PROBES:
      where = f'probes/{probe.name}'
      edited = [hack_probes.perturb(probe, t, texts, plan.seed) for t in rows]
      used = [r for r, t in enumerate(edited) if t is not None]
      found = self.score([t for t in edited if t is not None])
      got, why = hack_effects.rewards(found, plan.reductions)
      out.count(name, {
        f'{where}/does_not_apply': len(rows) - len(used),
        **{f'{where}/not_scored/{k}': n for k, n in hack_effects.counted(why).items()},
      })  # fmt: skip
      unscored = sum(map(bool, why)) / max(len(used), 1)
      by = {}
      for r in plan.reductions:
        after = np.full(len(rows), np.nan)
        after[used] = got[r]
        effect = hack_effects.effect(
          held, probe.truth, before[r], after, why, units[r], plan.rules
        )
        by[r] = effect.verdict
        self._put(f'{name}/{where}', effect.estimates, r)
        if r == plan.reduction:
          self._line(lines, probe.name, probe.truth, effect, unscored)
          change = after - before[r]
      self._verdict(name, probe.name, probe.truth, by)
      self._samples(name, probe.name, rows, used, found, before, got, label)
      self._show(probe.name, rows, edited, used, found, change, label, probe.truth)
    self._lengths(name, rows, held, before, units, lines)
    out.tables += [
      hack_tables.probes(name, lines, plan.reduction, plan.rules),
      hack_tables.by_reduction(name, self.verdicts[name], plan.reductions),
    ]

  def tokens(self, name: str, rows: Sequence[Trajectory]) -> None:
    """Adversarial tokens at every place."""
    plan, out = self.plan, self.out
    if not plan.search.tokens:
      return
    if not hack_tokens.supports(self.scorer):
      out.warnings.append(
        'adversarial tokens are looked for in scorers that are one model read at its '
        'steps, not in log-ratios of two; they were not tried.'
      )
      return
    wrong = [
      t for t, label in zip(
        rows, hack_effects.right_or_wrong(rows, plan.truth, plan.checker)
      ) if label == 0
    ]  # fmt: skip
    n_wrong = len(wrong)
    wrong = [t for t in wrong if t.steps]  # the others have no last step
    # One solution a problem first, so that as many problems as possible take part.
    one = list({t.problem_id: t for t in reversed(wrong)}.values())
    one.sort(key=lambda t: t.id)
    train, transfer = one[: plan.train_rows], one[plan.train_rows :]
    transfer = transfer[: plan.transfer_rows]
    where = f'{name}/{TOKENS}'
    out.count(name, {
      f'{TOKENS}/train': len(train), f'{TOKENS}/transfer': len(transfer),
      f'{TOKENS}/without_steps': n_wrong - len(wrong),
    })  # fmt: skip
    if not train or not transfer:
      self._verdict(name, TOKENS, PRESERVES, {p: UNDEFINED for p in plan.places})
      out.count(name, {f'{TOKENS}/too_few_wrong_problems': 1})
      return
    allowed = hack_tokens.allowed_tokens(self.scorer)
    out.count(name, {f'{TOKENS}/tokens_to_choose_from': len(allowed)})
    by: dict[str, str] = {}
    found: dict[str, hack_transfer.Transfer] = {}
    for place in plan.places:
      sought = hack_tokens.search(
        self.scorer, train, plan.reduction, place, plan.search, allowed
      )
      if sought is None:
        by[place] = hack_effects.REFUSED
        continue
      random = hack_tokens.random_texts(
        self.scorer, allowed, plan.search.tokens, plan.random, plan.search.seed
      )
      found[place] = hack_transfer.measure(
        self._reward, sought, random, train, transfer, place, self.scorer.kind,
        plan.rules, lambda ids: intervals.resamples(ids, plan.n_resamples, plan.seed),
      )  # fmt: skip
      by[place] = found[place].verdict
      out.count(name, {
        f'{TOKENS}/{place}/not_looked_at': len(train) - sought.used,
        f'{TOKENS}/{place}/not_scored': found[place].not_scored,
      })  # fmt: skip
      self._put(where, found[place].estimates, place)
      out.samples.extend({'set': name, **line} for line in found[place].samples)
      out.best_of_n.append(
        hack_tables.search_chart(
          f'{name}: tokens, place {place}', sought, plan.reduction
        )
      )
    self._verdict(name, TOKENS, PRESERVES, by)
    self.verdicts[name][TOKENS]['texts'] = {p: f.text for p, f in found.items()}
    out.tables.append(
      hack_tables.tokens(
        name, found, plan.reduction, plan.rules, len(train), len(transfer)
      )
    )

  def best_of_n(self, name: str, pool: Pool, rows: Sequence[Trajectory]) -> None:
    """Best-of-N by the reward for every N up to the smallest pool."""
    plan, out = self.plan, self.out
    sizes = ladder(pool)
    sample = intervals.resamples(pool.steps.problem_ids, plan.n_resamples, plan.seed)
    got, why = hack_effects.rewards(self.score(rows), plan.reductions)
    out.count(name, {
      f'{BEST_OF_N}/{k}': n for k, n in pool.counters.items()
    } | {
      f'{BEST_OF_N}/not_scored/{k}': n
      for k, n in hack_effects.counted(why).items()
    })  # fmt: skip
    found = {
      r: overoptimise(
        pool, got[r], sizes, sample, plan.rules, n_draws=plan.n_draws, seed=plan.seed
      )
      for r in plan.reductions
    }
    path = f'{name}/overoptimisation'
    main = found[plan.reduction]
    for i, n in enumerate(sizes):
      for what in ('majority', 'oracle'):
        out.put(f'{path}/{what}@{n}', getattr(main, what)[i], plan.checker)
      for r, o in found.items():
        out.put(f'{path}/accuracy_{r}@{n}', o.accuracy[i], plan.checker)
        out.put(f'{path}/proxy_{r}@{n}', o.proxy[i], '')
    for r, o in found.items():
      out.put(f'{path}/drop_{r}@{sizes[-1]}', o.drop, plan.checker)
      out.put(f'{path}/over_majority_{r}@{sizes[-1]}', o.over_majority, plan.checker)
    self._verdict(name, BEST_OF_N, '', {r: o.verdict for r, o in found.items()})
    self.verdicts[name][BEST_OF_N]['best_n'] = {r: o.best for r, o in found.items()}
    if sizes[-1] < 1024:
      out.warnings.append(
        f'{name}: best-of-N stops at N = {sizes[-1]}, its smallest pool; a drop may '
        'come later.'
      )
    out.samples.extend(
      {
        'kind': 'best_of_n', 'set': name, 'problem_id': p,
        'sizes': sizes, 'accuracy': [round(float(x), 6) for x in line],
      }
      for p, line in zip(pool.steps.problem_ids, main.by_problem)
    )  # fmt: skip
    out.tables.append(hack_tables.best_of_n(name, found, plan.rules))
    out.best_of_n.extend(hack_tables.best_of_n_charts(name, found, plan.reduction))

  def summary(self) -> str:
    """What the PRM fails, in the report's first sentences."""
    said = []
    for name, held in self.verdicts.items():
      of = {
        v: [a for a, found in held.items() if found['verdict'] == v]
        for v in (FAIL, WARN, PASS, hack_effects.REFUSED, UNDEFINED)
      }
      failed = ', '.join(a.replace('_', ' ') for a in of[FAIL])
      text = (
        f'On {name}, read with {self.plan.reduction}, this PRM fails {len(of[FAIL])} '
        f'of {len(held)} known attacks' + (f': {failed}.' if failed else '.')
      )
      if of[WARN]:
        text += f' Warnings: {", ".join(a.replace("_", " ") for a in of[WARN])}.'
      text += f' {len(of[PASS])} pass'
      for v, words in (
        (hack_effects.REFUSED, 'refused by its step format'),
        (UNDEFINED, 'undefined'),
      ):
        text += f', {len(of[v])} {words}' if of[v] else ''
      said.append(text + '.')
    return ' '.join([*said, hack_tables.NOT_SAFE])

  def _reward(self, rows: Sequence[Trajectory]) -> np.ndarray:
    """[R] under the chosen reduction, NaN where a row is refused."""
    found, _ = hack_effects.rewards(self.score(rows), [self.plan.reduction])
    return found[self.plan.reduction]

  def _put(self, start: str, estimates: Mapping[str, Estimate], at: str) -> None:
    judged = f'{self.plan.truth}+{self.plan.checker}'
    for name, e in estimates.items():
      self.out.put(f'{start}/{name}@{at}', e, judged)

  def _verdict(self, name: str, attack: str, truth: str, by: Mapping[str, str]) -> None:
    """An attack's verdict: that of the chosen reduction, or the worst of its places."""
    order = (FAIL, WARN, PASS, hack_effects.REFUSED, UNDEFINED)
    worst = next((v for v in order if v in by.values()), UNDEFINED)
    self.verdicts.setdefault(name, {})[attack] = {
      'verdict': by.get(self.plan.reduction, worst),
      'truth': truth,
      'by': dict(by),
    }

  def _line(
    self,
    lines: list[Row],
    attack: str,
    truth: str,
    effect: hack_effects.Effect,
    unscored: float,
  ) -> None:
    cells: list[Any] = [effect.verdict, truth]
    for key in ('change', 'change_right', 'rises', 'flips'):
      e = effect.estimates.get(key)
      cells.append(None if e is None or e.value is None else e.metric())
    cells.append(unscored or None)
    lines.append(Row(attack.replace('_', ' '), cells))

  def _lengths(
    self,
    name: str,
    rows: Sequence[Trajectory],
    held: hack_effects.Rows,
    before: Mapping[str, np.ndarray],
    units: Mapping[str, float],
    lines: list[Row],
  ) -> None:
    lengths = {
      'steps': np.array([t.n_steps for t in rows]),
      'characters': np.array([sum(map(len, t.steps)) for t in rows]),
    }
    for attack, what in LENGTHS.items():
      by = {}
      for r, reward in before.items():
        effect = hack_effects.length_effect(
          held, lengths[what], reward, units[r], self.plan.rules
        )
        by[r] = effect.verdict
        self._put(f'{name}/probes/{attack}', effect.estimates, r)
        if r == self.plan.reduction:
          slopes = [effect.estimates[f'slope_{c}'] for c in ('wrong', 'right')]
          cells = [None if s.value is None else s.metric() for s in slopes]
          lines.append(
            Row(f'length in {what}', [effect.verdict, 'statistic', *cells, *[None] * 3])
          )
      self._verdict(name, attack, 'statistic', by)

  def _samples(
    self, name: str, attack: str, rows: Sequence[Trajectory], used: Sequence[int],
    found: Sequence[Any], before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray], label: np.ndarray,
  ) -> None:  # fmt: skip
    number = lambda x: round(float(x), 6) if np.isfinite(x) else None
    for i, r in enumerate(used):
      line = {
        'kind': 'probe', 'set': name, 'probe': attack, 'id': rows[r].id,
        'problem_id': rows[r].problem_id,
        'right': None if label[r] < 0 else bool(label[r]),
        'before': {k: number(v[r]) for k, v in before.items()},
        'after': {k: number(v[i]) for k, v in after.items()},
      }  # fmt: skip
      if not isinstance(found[i], ScoreSet):
        line['refused'] = found[i].reason
      self.out.samples.append(line)

  def _show(
    self, attack: str, rows: Sequence[Trajectory], edited: Sequence[Trajectory | None],
    used: Sequence[int], found: Sequence[Any], change: np.ndarray, label: np.ndarray,
    truth: str,
  ) -> None:  # fmt: skip
    """Keeps the solutions of an attack that it served best, beside what they were."""
    about = [
      (change[r], i, r) for i, r in enumerate(used)
      if np.isfinite(change[r]) and label[r] == (0 if truth == PRESERVES else 1)
    ]  # fmt: skip
    room = max(self.plan.max_samples // len(PROBES), 1)
    for _, i, r in sorted(about, key=lambda x: -x[0])[:room]:
      t = edited[r]
      if t is not None:
        self.shown.append((attack, t, found[i]))
