"""Rollouts through the command line, with a tiny policy that writes noise."""

import json
import shutil

import pytest
import tiny_policies
from test_chunks import Killed
from tiny_runs import (
  ROOT,
  arguments,
  contents,
  finish,
  record,
  refusal,
  results,
  run,
  start,
  write_lines,
)

from prm_jax import exports, records
from prm_jax.jobs import chunks, rollout

CONFIG = str(ROOT / 'configs' / 'rollout.py')
TINY = {
  'rollout.problems': '0:6',
  'rollout.n': 3,
  'sampling.max_tokens': 24,
  'chunk.size': 2,
  'engine.slots': 8,
  'engine.group': 4,
  'parallel.data': 1,
  'evaluate.resamples': 10,
  'evaluate.subsets': 4,
}
PROMISED = ('solutions', 'chunks')


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  return tiny_policies.export(tmp_path_factory.mktemp('policy'))


@pytest.fixture(scope='module')
def straight(policy, tmp_path_factory):
  work = tmp_path_factory.mktemp('straight')
  assert run(argv(work, policy)) == 0
  return work


def argv(workdir, policy, **overrides):
  return arguments(workdir, CONFIG, TINY, engine__policy=policy, **overrides)


def rows_of(workdir):
  return list(records.read(str(workdir / 'solutions')))


def promised(workdir):
  """What every way of doing the same work must leave, bit for bit."""
  files = contents(workdir)
  held = results(workdir)
  kept = {k: v for k, v in files.items() if k.split('/')[0] in PROMISED}
  return kept, held['metrics'], held['counters']


def test_what_a_rollout_leaves(straight):
  rows = rows_of(straight)
  assert len(rows) == 18 and len({t.id for t in rows}) == 18
  assert [t.sample_index for t in rows] == [0, 1, 2] * 6
  for t in rows:
    assert t.gold_answer is not None and t.source == 'world:train'
    assert t.generator.startswith('policy@') and t.sampling['max_tokens'] == 24
    assert tuple(t.response[a:b] for a, b in t.step_spans) == t.steps
    assert set(t.verdicts) == {'exact'} and 'exact' not in t.labels
    assert set(t.labels) == {'valid', 'on_track'} if t.steps else True
    cut_off = t.meta['finish_reason'] == 'length'
    assert not cut_off or (t.answer is None and t.verdicts['exact'].value is None)
  found = results(straight)
  metrics, counters = found['metrics'], found['counters']
  for name in ('pass@1', 'majority@2', 'oracle@3'):
    assert metrics[f'solutions/best_of_n/{name}']['n'] == 6
  assert metrics['solutions/length/tokens']['n'] == 18
  right = sum(t.verdicts['exact'].value is True for t in rows)
  assert counters.get('right', 0) == right
  assert counters['unjudged'] + counters['wrong'] + right == 18
  assert counters['finish/end'] + counters['finish/length'] == 18
  assert counters['engine/decoded_tokens'] == sum(t.meta['n_tokens'] for t in rows)
  assert 'engine/compilations' not in counters  # depends on what ran before
  assert found['provenance']['covers'] == 'all chunks'
  assert (straight / 'timing.jsonl').exists()


def test_again_says_that_it_is_complete(straight, policy, capsys):
  before = contents(straight)
  assert run(argv(straight, policy)) == 0
  assert 'complete' in capsys.readouterr().err
  assert contents(straight) == before


def test_samples_do_not_depend_on_company(straight, policy, tmp_path):
  """Other chunks, fewer samples, other problems beside: the same solutions."""
  assert run(argv(tmp_path, policy, chunk__size=6, rollout__n=2)) == 0
  fewer = {t.id: t for t in rows_of(tmp_path)}
  assert len(fewer) == 12
  assert fewer == {t.id: t for t in rows_of(straight) if t.id in fewer}


def test_all_devices_give_the_same_bytes(straight, policy, tmp_path):
  assert run(argv(tmp_path, policy, parallel__data=0)) == 0
  assert promised(tmp_path) == promised(straight)
  timing = (tmp_path / 'timing.jsonl').read_text().splitlines()
  assert {json.loads(line)['worker'] for line in timing} == {0, 1, 2}


def test_shards_are_the_whole(straight, policy, tmp_path):
  """In one workdir; and on two machines whose files are put together."""
  for i in (1, 0):
    assert run(argv(tmp_path / 'one', policy, shard=f'{i}/2')) == 0
    assert run(argv(tmp_path / str(i), policy, shard=f'{i}/2')) == 0
  assert promised(tmp_path / 'one') == promised(straight)
  assert results(tmp_path / '1')['provenance']['covers'] == 'shard 1/2'
  assert results(tmp_path / '1')['metrics']['solutions/best_of_n/pass@1']['n'] == 2
  for name in PROMISED:
    shutil.copytree(tmp_path / '1' / name, tmp_path / '0' / name, dirs_exist_ok=True)
  assert run(argv(tmp_path / '0', policy)) == 0
  assert promised(tmp_path / '0') == promised(straight)


@pytest.mark.parametrize('call', [1, 3])
@pytest.mark.parametrize('after', [False, True])
def test_dying_between_chunks(call, after, straight, policy, tmp_path, monkeypatch):
  write = chunks._Books.write
  calls = [0]

  def dies(self, number, made):
    calls[0] += 1
    if calls[0] == call and not after:
      raise Killed
    write(self, number, made)
    if calls[0] == call:
      raise Killed

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(chunks._Books, 'write', dies)
    run(argv(tmp_path, policy))
  assert not (tmp_path / 'results.json').exists()
  assert run(argv(tmp_path, policy)) == 0
  assert promised(tmp_path) == promised(straight)


def test_tokens_of_steps(policy, tmp_path):
  assert run(argv(tmp_path, policy, rollout__tokens=True)) == 0
  _, _, words = exports.load_policy(policy / 'policy')
  kept = [t for t in rows_of(tmp_path) if t.steps]
  assert kept
  for t in kept:
    ids = [i for part in t.tokens for i in part['ids']]
    assert len(ids) == t.meta['n_tokens']
    assert words.decode(ids).removesuffix('<eos>') == t.response
    assert all(len(p['ids']) == len(p['logprobs']) for p in t.tokens)
    for part, step in zip(t.tokens, t.steps):
      assert step in words.decode(part['ids'])


def test_steps_by_low_confidence_and_entropy(policy, tmp_path):
  for how, threshold in (('low_confidence', 0.1), ('entropy', 2.0)):
    work = tmp_path / how
    options = {'splitting__how': how, 'splitting__threshold': threshold}
    options['sampling__certainty'] = how == 'entropy'
    assert run(argv(work, policy, rollout__problems='0:2', **options)) == 0
    rows = rows_of(work)
    assert max(t.n_steps for t in rows) > 1
    assert all(''.join(t.steps) == t.response and t.separator == '' for t in rows)
    held = [t.meta.get('self_certainty') for t in rows]
    assert all(c > 0 for c in held) if how == 'entropy' else not any(held)


def test_questions_of_a_file(policy, tmp_path):
  """Each once, in order; none needs a gold answer."""
  rows = [record(i, gold_answer='3') for i in range(3)]
  rows += [record(1, id='again'), record(7, problem_id='other', question='1+1=?')]
  file = write_lines(tmp_path / 'mine.jsonl', [*rows, record(4)])
  work = tmp_path / 'work'
  assert run(argv(work, policy, input=file, rollout__problems='')) == 0
  found = rows_of(work)
  assert [t.problem_id for t in found[::3]] == [f'problem-{i}' for i in (0, 1, 2, 4)]
  counters = results(work)['counters']
  assert counters['rows_with_a_problem_seen_before'] == 2
  assert counters['solutions_without_gold_answer'] == 3
  last = found[-1].verdicts['exact']
  assert last.value is None
  assert last.reason in ('no reference answer', 'cut off at the limit of tokens')
  assert results(work)['metrics']['solutions/best_of_n/pass@1']['n'] == 3


def test_no_gold_answer_at_all(policy, tmp_path):
  file = write_lines(tmp_path / 'mine.jsonl', [record(i) for i in range(2)])
  assert run(argv(tmp_path / 'work', policy, input=file)) == 0
  found = results(tmp_path / 'work')
  assert 'solutions/length/tokens' in found['metrics']
  assert not [name for name in found['metrics'] if 'pass@1' in name]


def test_prompts_longer_than_the_context(policy, tmp_path, capsys):
  long = record(0, question='1' * 100)
  file = write_lines(tmp_path / 'mine.jsonl', [long, record(1)])
  assert run(argv(tmp_path / 'some', policy, input=file)) == 0
  assert results(tmp_path / 'some')['counters']['refused/too_long'] == 1
  assert len(rows_of(tmp_path / 'some')) == 3
  file = write_lines(tmp_path / 'long.jsonl', [long])
  said = refusal(argv(tmp_path / 'none', policy, input=file), capsys)
  assert 'no problem could be asked (1 too_long)' in said


def test_temperature_zero_says_that_samples_are_identical(policy, tmp_path, capsys):
  assert run(argv(tmp_path, policy, sampling__temperature=0)) == 0
  assert 'samples of a problem are identical' in capsys.readouterr().err
  rows = rows_of(tmp_path)
  assert all(len({t.response for t in rows[i : i + 3]}) == 1 for i in range(0, 18, 3))


def test_stop_string_never_produced(policy, tmp_path, capsys):
  assert run(argv(tmp_path, policy, sampling__stop='("zebra",)')) == 0
  assert 'no solution reached a stop string' in capsys.readouterr().err


REFUSED = {
  'n=0': ({'rollout__n': 0}, 'rollout.n=0'),
  'max tokens 0': ({'sampling__max_tokens': 0}, 'max_tokens=0'),
  'negative temperature': ({'sampling__temperature': -1.0}, 'temperature'),
  'chunk of nothing': ({'chunk__size': 0}, 'chunk.size=0'),
  'shard': ({'shard': '2/2'}, "shard='2/2'"),
  'no span': ({'rollout__problems': ''}, 'no end of problems'),
  'bad span': ({'rollout__problems': '5:2'}, "'5:2'"),
  'no input': ({'input': ''}, 'input'),
  'no such file': ({'input': 'nowhere.jsonl'}, 'nowhere.jsonl'),
  'no policy': ({'engine__policy': ''}, 'engine.policy'),
  'not a policy': ({'engine__policy': 'tests'}, 'no exported policy'),
  'slots': ({'engine__slots': 6}, 'engine.slots=6'),
  'kind': ({'engine__kind': 'torch'}, "engine.kind='torch'"),
  'no model': ({'engine__kind': 'remote', 'engine__url': 'http://x'}, 'model'),
  'devices': ({'parallel__data': 99}, 'parallel.data=99'),
  'answers': ({'answers__policies': '("guess",)'}, "'guess'"),
  'splitting': ({'splitting__how': 'magic'}, "'magic'"),
}  # fmt: skip


@pytest.mark.parametrize('what', REFUSED)
def test_refused_in_one_sentence(what, policy, tmp_path, capsys):
  options, expected = REFUSED[what]
  given = {'engine__policy': policy, **options}
  said = refusal(arguments(tmp_path / 'work', CONFIG, TINY, **given), capsys)
  assert expected in said
  assert not (tmp_path / 'work' / 'solutions').exists()


def test_damaged_policies(policy, tmp_path, capsys):
  folder = shutil.copytree(policy, tmp_path / 'other')
  about = json.loads((folder / 'policy' / 'spec.json').read_text())
  changed = {**about, 'tokenizer_fingerprint': 'another'}
  (folder / 'policy' / 'spec.json').write_text(json.dumps(changed))
  said = refusal(argv(tmp_path / 'work', folder), capsys)
  assert 'not the tokenizer that the model was trained with' in said
  (folder / 'policy' / 'spec.json').write_text(json.dumps(about))
  weights = folder / 'policy' / 'model.safetensors'
  weights.write_bytes(weights.read_bytes()[:-8])
  assert str(weights) in refusal(argv(tmp_path / 'work', folder), capsys)


def test_another_policy_in_the_same_place_is_refused(policy, tmp_path, capsys):
  place = shutil.copytree(policy, tmp_path / 'policy')
  assert run(argv(tmp_path / 'work', place)) == 0
  tiny_policies.export(place, seed=1)
  said = refusal(argv(tmp_path / 'work', place), capsys)
  assert 'made from other input' in said and '00000.jsonl.gz' in said


def test_unreadable_chunk_is_made_again(straight, policy, tmp_path, capsys):
  work = shutil.copytree(straight, tmp_path / 'work')
  file = work / 'solutions' / '00001.jsonl.gz'
  file.write_bytes(file.read_bytes()[:-20])
  assert run(argv(work, policy)) == 0
  assert 'solutions/00001.jsonl.gz: missing or damaged' in capsys.readouterr().err
  assert promised(work) == promised(straight)


def test_two_jobs_in_one_workdir(policy, tmp_path, monkeypatch, capsys):
  process = rollout.Sampler.process
  second = []

  def nested(self, problems, worker):
    if not second:
      second.append(run(argv(tmp_path, policy)))
    return process(self, problems, worker)

  monkeypatch.setattr(rollout.Sampler, 'process', nested)
  assert run(argv(tmp_path, policy)) == 0
  assert second == [2]
  assert 'another job is running in this workdir' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('n_files', [1, 2, 5])
def test_kill_9(n_files, policy, tmp_path):
  """A real process, killed when so many files of chunks are there."""
  options = {'rollout__problems': '0:40', 'sampling__max_tokens': 40}
  straight, work = tmp_path / 'straight', tmp_path / 'work'
  assert finish(start(argv(straight, policy, **options)))[0] == 0
  process = start(argv(work, policy, **options))
  while process.poll() is None:
    if len(list(work.glob('*/0*'))) >= n_files:
      process.kill()
      break
  assert finish(process)[0] == -9
  assert not (work / 'results.json').exists()
  assert finish(start(argv(work, policy, **options)))[0] == 0
  assert promised(work) == promised(straight)
