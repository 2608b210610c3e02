"""Invented material for the viewer: pairs of scorers, label trees, searches on disk.

`python tests/view_example.py OUT.html [N]` writes a page with N solutions of long
steps, two scorers, and a few trees.
"""

import dataclasses
import random
import sys

import report_example
import scripted_search
from step_completer import Completer, drive, solution, wrong

from prm_jax import jsonl, records
from prm_jax.evaluation import report
from prm_jax.inference.requests import Sampling
from prm_jax.jobs import view_trees
from prm_jax.labeling.omega import OmegaOptions, omega_prm
from prm_jax.records import Verdict
from prm_jax.search import driver, registry

SCORERS = ('prm-a', 'prm-b')
METHODS = {
  'beam': {'n': 8},
  'rebase': {'n': 12},
  'mcts': {'simulations': 12},
  'best_of_n': {'n': 16, 'reduction': 'min'},
}


def pair(samples, seed=1):
  """The same solutions with the scores of an invented second scorer."""
  rng = random.Random(seed)
  out = []
  for k, s in enumerate(samples):
    scores = [
      None if v is None else min(max(v + rng.gauss(0, 0.35), 0.01), 0.99)
      for v in s.scores
    ]
    first = report.predicted_first_error(scores, 0.5)
    rival = report.Reading(SCORERS[1], scores, first, 0.5)
    name = ('process_bench', 'prmbench')[k % 2]
    out.append(dataclasses.replace(s, scorer=SCORERS[0], benchmark=name, rival=rival))
  return out


def long_samples(count):
  """Solutions whose steps are as long as those of a language model."""
  filler = ' '.join(report_example.LONG_STEPS)
  return [
    dataclasses.replace(
      s, steps=tuple(f'{t} {filler[k % 97 : k % 97 + 150]}' for t in s.steps)
    )
    for k, s in enumerate(report_example.world_samples(count))
  ]


def write_label_run(folder):
  """Trees of OmegaPRM on planted problems, as a label run leaves them."""
  rows = []
  for first in range(6):
    completer = Completer(n_steps=12, rate=0.6, repaired=0.1)
    group = [solution(wrong(12, first + 4), False)]
    made = drive(omega_prm(OmegaOptions(search_limit=12)), group, completer)
    rows.append({**made.tree, 'problem_id': f'p{first}'})
  jsonl.write_json_lines(folder / 'trees' / '00000.jsonl.gz', rows)
  return folder


def write_search(folder, n=4):
  """Searches of a scripted policy, in the files that the search job leaves."""
  searches, candidates, trees = [], [], []
  for name, options in METHODS.items():
    policy = scripted_search.Policy(scripted_search.good_and_bad())
    scorer = scripted_search.Scorer(scripted_search.all_good)
    algorithm, _ = registry.build(name, options, kind='probability')
    problems = scripted_search.problems(n)
    found = driver.run(
      problems, algorithm, policy, scorer, Sampling(max_tokens=200, seed=3),
      name=name, keep_tree=True,
    )  # fmt: skip
    for p, r in zip(problems, found):
      mine = [
        dataclasses.replace(
          t,
          answer=t.steps[-1],
          verdicts={'exact': Verdict(all(s.startswith('good') for s in t.steps))},
        )
        for t in r.candidates
      ]
      candidates += map(records.to_dict, mine)
      picked = None if r.chosen is None else mine[r.chosen].id
      row = {'method': name, 'problem_id': p.problem_id}
      searches.append({**row, 'chosen': picked, 'counts': r.counts})
      trees.append({**row, 'beams': r.tree})
  for part, rows in zip(
    ('searches', 'candidates', 'trees'), (searches, candidates, trees)
  ):
    jsonl.write_json_lines(folder / part / '00000.jsonl.gz', rows)
  return folder


if __name__ == '__main__':
  import pathlib
  import tempfile

  with tempfile.TemporaryDirectory() as home:
    runs = [write(pathlib.Path(home) / write.__name__)
            for write in (write_label_run, write_search)]  # fmt: skip
    grown = [tree for folder in runs for tree in view_trees.of_run(str(folder))]
  count = int(sys.argv[2]) if len(sys.argv) > 2 else 300
  shown = [report_example.text_sample(), *long_samples(count)]
  data = report.ReportData('Viewer', 'view', samples=pair(shown), trees=grown)
  report.write(sys.argv[1], data)
