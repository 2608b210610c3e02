"""The view job: scored files, runs, label trees and searches become a page."""

import json

import pytest
import view_example
from test_report import embedded, read
from tiny_runs import refusal, tool

from prm_jax import jsonl
from prm_jax.errors import UserError
from prm_jax.jobs import view_trees
from prm_jax.main import main

SCORES = {
  'one': {'kind': 'probability', 'values': [0.9, 0.2]},
  'two': {'kind': 'logit', 'values': [1.0, 0.5]},
}


def row(k, **changes):
  return {
    'id': f't{k}', 'problem_id': f'p{k}', 'question': f'question {k}',
    'steps': ['<b>a</b>', '</script><script>alert(1)</script>'],
    'labels': {'human': {'kind': 'correctness', 'values': [1, 0]}},
    'first_error': {'human': 1}, 'scores': SCORES, **changes,
  }  # fmt: skip


def view(tmp_path, capsys, **keys):
  """Exit code, the page's data (None without a page), and what was said."""
  out = tmp_path / 'view.html'
  out.unlink(missing_ok=True)
  given = [f'--config.{k.replace("__", ".")}={v}' for k, v in keys.items()]
  code = main(
    ['prm_jax', '--config=configs/view.py', f'--config.output={out}', *given,
     f'--workdir={tmp_path / "unused"}']
  )  # fmt: skip
  said = ''.join(capsys.readouterr())
  if not out.exists():
    return code, None, said
  page = out.read_text('utf-8')
  assert read(page).names.count('script') == 2
  return code, embedded(page), said


def test_scored_files_side_by_side(tmp_path, capsys):
  file = tmp_path / 'scored.jsonl.gz'
  jsonl.write_json_lines(file, [row(0), row(1), row(2, scores={})])
  code, data, said = view(tmp_path, capsys, input=file, view_scores='one,two@0.7')
  assert code == 0 and '1 rows without these scores, 2 solutions' in said
  first = data['samples'][0]
  assert (first['predicted'], first['rival']['predicted']) == (1, 1)
  assert first['disagreement'] == 'both_right' and first['rival']['threshold'] == 0.7
  assert first['steps'][1] == row(0)['steps'][1]
  code, data, said = view(tmp_path, capsys, input=file, view_scores='three')
  assert code == 2 and "no row has scores or labels 'three'" in said


def test_every_row_of_every_file_is_shown(tmp_path, capsys):
  for name, numbers in (('a', (0, 1)), ('b', (1, 2))):
    jsonl.write_json_lines(tmp_path / f'{name}.jsonl', map(row, numbers))
  both = f'{tmp_path}/a.jsonl,{tmp_path}/b.jsonl'
  _, data, _ = view(tmp_path, capsys, input=both)
  assert [s['id'] for s in data['samples']] == ['t0', 't1', 't1 (2)', 't2']


def test_a_page_is_not_written_over_another_file(tmp_path, capsys):
  out = tmp_path / 'report.html'
  out.write_text('of a run')
  file = tmp_path / 'scored.jsonl'
  jsonl.write_json_lines(file, [row(0)])
  said = refusal(tool('view', input=file, output=out), capsys)
  assert f'{out}: is there already; give another --config.output' in said
  assert out.read_text() == 'of a run'


def test_what_view_needs_is_said(tmp_path, capsys):
  code, data, said = view(tmp_path, capsys)
  assert code == 2 and data is None and 'view needs --config.input=' in said
  said = refusal(tool('view', input='x.jsonl', output='README.md'), capsys)
  assert said == '--config.output=README.md: give it a name that ends in .html.'
  (tmp_path / 'trees').mkdir()
  jsonl.write_json_lines(tmp_path / 'trees' / '00000.jsonl', [])
  code, data, said = view(tmp_path, capsys, input=tmp_path)
  assert code == 2 and data is None and 'no tree was kept' in said


def run_of(folder, name, threshold):
  """The files of an evaluated run that view reads."""
  folder = folder / name
  (folder / 'samples').mkdir(parents=True)
  said = {'truth': 'human', 'gold_first_error': 1, 'threshold': threshold}
  rows = [
    row(k, evaluation={**said, 'scores': [0.9, 0.2 + k / 4],
                       'predicted_first_error': -1 if 0.2 + k / 4 > threshold else 1})
    for k in range(3)
  ]  # fmt: skip
  for split in ('validation', 'process_bench.gsm8k'):
    jsonl.write_json_lines(folder / 'samples' / f'{split}.jsonl.gz', rows)
  results = {'schema_version': 1, 'metrics': {}, 'judged_by': {}}
  (folder / 'results.json').write_text(json.dumps(results))
  return folder


def test_runs_with_their_own_thresholds(tmp_path, capsys):
  a, b = run_of(tmp_path, 'a', 0.3), run_of(tmp_path, 'b', 0.6)
  code, data, said = view(tmp_path, capsys, a=a, b=b)
  assert code == 0, said
  kinds = [s['disagreement'] for s in data['samples']]
  assert kinds == ['both_right', 'only_b', 'same_wrong']
  assert {s['benchmark'] for s in data['samples']} == {'process_bench'}
  assert {s['split'] for s in data['samples']} == {'gsm8k'}
  code, data, _ = view(tmp_path, capsys, a=a)
  assert code == 0 and len(data['samples']) == 3 and 'rival' not in data['samples'][0]


def test_runs_are_coloured_by_the_scale_of_their_own_scorer(tmp_path, capsys):
  folder = run_of(tmp_path, 'a', 0.5)
  file = folder / 'samples' / 'process_bench.gsm8k.jsonl.gz'
  rows = [held for _, held in jsonl.iter_json_lines(file)]
  for r in rows:
    r['scores'] = {'pqm': SCORES['two'], 'prm': SCORES['one']}
  jsonl.write_json_lines(file, rows)
  for name in ('prm', 'pqm'):
    (folder / 'config.json').write_text(json.dumps({'scorer_name': name}))
    code, data, _ = view(tmp_path, capsys, a=folder)
    scale = data['scales'][data['samples'][0]['scale']]
    assert code == 0 and (scale == [0, 0.5, 1]) == (name == 'prm')


def test_label_trees(tmp_path, capsys):
  folder = view_example.write_label_run(tmp_path)
  code, data, said = view(tmp_path, capsys, input=folder, data__limit=4)
  assert code == 0 and '4 trees' in said and len(data['trees']) == 4
  root, *nodes = data['trees'][0]['nodes']
  assert 0 < root['value'] < 1 and 'rollouts right' in root['note']
  assert any(n.get('right') is False for n in nodes)
  assert not any('chosen' in n for n in data['trees'][0]['nodes'])


def test_searches(tmp_path, capsys):
  folder = view_example.write_search(tmp_path, n=2)
  code, data, _ = view(tmp_path, capsys, input=folder)
  assert code == 0 and len(data['trees']) == 2 * len(view_example.METHODS)
  for tree in data['trees']:
    path = [n for n in tree['nodes'] if n.get('chosen')]
    assert [len(n.get('steps', ())) for n in path] == [0, 1, 1, 1, 1]
    assert path[-1]['right'] is (tree['verdict'] == 'right')
    assert path[-1]['steps'] == [tree['answer']]
    assert all(len(n['steps']) == 1 for n in tree['nodes'][1:])
  best = next(t for t in data['trees'] if t['algorithm'] == 'best_of_n')
  assert len(best['nodes']) == 1 + 16 * 4 and best['facts'][0][0] == 'policy_generated'


def test_damaged_searches_are_refused(tmp_path):
  beams = [{'id': 1, 'parent': 2, 'steps': ['a'], 'scores': [0.5]}]
  with pytest.raises(UserError, match='a beam that stands before it'):
    view_trees.of_search(beams, id='t', question='q')
  beams[0] |= {'parent': 0, 'scores': [0.5, 0.5]}
  with pytest.raises(UserError, match='2 entries for 1 steps'):
    view_trees.of_search(beams, id='t', question='q')
  jsonl.write_json_lines(
    tmp_path / 'trees' / '0.jsonl', [{'method': 'm', 'problem_id': 'p', 'beams': []}]
  )
  with pytest.raises(UserError, match='missing or empty; name the whole workdir'):
    view_trees.of_run(str(tmp_path))
