"""The report in a real browser: no errors, filters that count, a phone's width."""

import dataclasses
import re
import time

import browser
import pytest
import report_example
import view_example

from prm_jax.evaluation import report
from prm_jax.jobs import view_trees

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    browser.find() is None,
    reason=f'no Chromium in PATH (looked for {", ".join(browser.NAMES)})',
  ),
]
SHOWN = "document.getElementById('shown').textContent"
UNFOLD = (
  "document.querySelectorAll('#list .row[aria-expanded=false]')"
  '.forEach(row => row.click())'
)
ROWS = "document.querySelectorAll('#list > li .row').length"
HOSTILE = '</script><script>window.hurt=1</script><img src=x onerror="window.hurt=1">'


@pytest.fixture(scope='module')
def tab():
  with browser.Browser() as opened:
    yield opened


@pytest.fixture
def show(tab, tmp_path):
  """Writes a report and opens it; afterwards nothing must have gone wrong."""
  tab.problems.clear()

  def opened(data, anchor='', **window):
    report.write(tmp_path / 'report.html', data)
    tab.open(f'file://{tmp_path}/report.html{anchor}', **window)
    return tab

  yield opened
  tab.js('1')
  assert tab.problems == []


def press(tab, selector):
  tab.js(f'document.querySelector({selector!r}).click()')


def test_filters_change_what_is_shown(show):
  data = report_example.example(300)
  tab = show(data)
  assert tab.js(SHOWN) == 'Showing 1 to 25 of 301 solutions.'
  assert tab.js(ROWS) == 25
  kinds = [s.failure for s in data.samples]
  for kind in ('missed', 'false_alarm'):
    button = f'[data-value="{kind}"]'
    counted = int(tab.js(f'document.querySelector({button!r} + " .count").textContent'))
    assert counted == kinds.count(kind) > 0
    press(tab, button)
    assert tab.js(f"document.querySelector('{button}').ariaPressed") == 'true'
    assert tab.js(f'[...document.querySelectorAll("{".failure"}")].length') == counted
    assert f' of {counted} solutions (301 in all).' in tab.js(SHOWN)
    press(tab, button)
  tab.js(
    "query.value = 'greatest common DIVISOR'; query.dispatchEvent(new Event('input'))"
  )
  tab.wait(f"{SHOWN} === 'Showing 1 to 1 of 1 solutions (301 in all).'")
  tab.js("query.value = 'no such text'; query.dispatchEvent(new Event('input'))")
  tab.wait("document.querySelector('#list').textContent.startsWith('No solution')")


def test_order_pages_and_addresses(show):
  data = report_example.example(300)
  tab = show(data, '#solution=math%2F17%3A3')
  opened = "document.querySelector('#list .row[aria-expanded=true]').textContent"
  assert 'processbench math' in tab.js(opened)
  assert tab.js('document.activeElement.className') == 'row'
  tab.js("location.hash = '#solution=nowhere'")
  tab.wait(f"{SHOWN} === 'No solution here has the id nowhere.'")
  tab.js("order.value = 'sure'; order.dispatchEvent(new Event('change'))")
  sure = (
    "[...document.querySelectorAll('.sure')].map(n => Number(n.textContent.slice(11)))"
  )
  values = tab.js(sure)
  assert len(values) == 25 and values == sorted(values, reverse=True)
  press(tab, '#pages button:last-child')
  assert tab.js(SHOWN) == 'Showing 26 to 50 of 301 solutions.'


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [320, 390, 1280])
def test_no_sideways_scrolling(show, width, dark):
  tab = show(
    report_example.example(60), '#solution=math%2F17%3A3', width=width, dark=dark
  )
  tab.js("document.querySelectorAll('details').forEach(d => d.open = true)")
  tab.js(UNFOLD)
  assert tab.js('document.documentElement.scrollWidth') == width
  outside = (
    "[...document.querySelectorAll('main *')].filter(n => !n.closest('.scroll, svg') "
    '&& n.getBoundingClientRect().right > innerWidth + 1).map(n => n.className)'
  )
  assert tab.js(outside) == []


def test_hostile_text_does_nothing(show):
  sample = report.Sample(
    HOSTILE, HOSTILE, HOSTILE, (HOSTILE,) * 3, (0.9, 0.1, None),
    gold_first_error=1, predicted_first_error=1, threshold=0.5,
    answer=HOSTILE, gold_answer=HOSTILE, generator=HOSTILE,
  )  # fmt: skip
  tab = show(report.ReportData(HOSTILE, HOSTILE, samples=(sample, sample)))
  tab.js(UNFOLD)
  time.sleep(0.1)
  assert tab.js('window.hurt') is None
  assert (
    tab.js("document.querySelector('.step:not(.headings) .text').textContent")
    == HOSTILE
  )


KEY = """(key) => document.activeElement.dispatchEvent(
  new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}))"""
TEXT = "document.activeElement.querySelector('.text').textContent"


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
  home = tmp_path_factory.mktemp('trees')
  folders = view_example.write_label_run(home / 'l'), view_example.write_search(home)
  return [t for folder in folders for t in view_trees.of_run(str(folder))]


def test_disagreement_filters_and_both_colours(show):
  samples = view_example.pair(report_example.world_samples(200))
  tab = show(report.ReportData('pairs', 'view', samples=samples))
  kinds = [s.disagreement for s in samples]
  press(tab, '[data-facet=disagreement][data-value=only_a]')
  assert f' of {kinds.count("only_a")} solutions (200 in all)' in tab.js(SHOWN)
  press(tab, '[data-facet=benchmark][data-value=prmbench]')
  both = sum(s.disagreement == 'only_a' and s.benchmark == 'prmbench' for s in samples)
  assert 0 < both < kinds.count('only_a')
  assert f' {both} solutions (200 in all)' in tab.js(SHOWN)
  assert tab.js("document.querySelector('#list .row .strip').textContent") == 'AB'
  tab.js("order.value = 'apart'; order.dispatchEvent(new Event('change'))")
  found = tab.js(
    "[...document.querySelectorAll('.sure')].map(n => Number(n.textContent.slice(4)))"
  )
  assert found == sorted(found, reverse=True) and found[0] > 0.3
  tab.js(UNFOLD)
  # A finds the first wrong step, or its absence; B does not. Both say so in words.
  said = tab.js("document.querySelector('.outcome').textContent")
  parts = re.findall(r'(?:A|B|truth): (no step|step \d+)', said)
  assert len(parts) == 3 and parts[0] == parts[2] != parts[1]
  marked = "document.querySelectorAll('.detail:has(.step.two)')[0]"
  assert tab.js(f"{marked}.querySelectorAll('.step:not(.headings) .chip').length") == (
    2 * tab.js(f"{marked}.querySelectorAll('.step:not(.headings)').length")
  )


def test_a_tree_opens_by_keys_and_shows_the_chosen_path(show, trees):
  searched = [t for t in trees if t.algorithm == 'beam']
  tab = show(report.ReportData('trees', 'view', trees=searched))
  node = "document.querySelectorAll('.node')"
  assert tab.js(f'[...{node}].filter(n => n.matches(".chosen")).length') == 5
  tab.js("document.querySelector('.node').focus()")
  assert tab.js(TEXT) == 'question'
  before = tab.js(f'{node}.length')
  tab.js(f"({KEY})('ArrowLeft')")
  assert tab.js(f'{node}.length') == 1
  assert tab.js('document.activeElement.ariaExpanded') == 'false'
  tab.js(f"({KEY})('ArrowRight')")
  assert tab.js(f'{node}.length') == before
  tab.js(f"({KEY})('ArrowRight')")
  assert tab.js("document.activeElement.getAttribute('aria-level')") == '2'
  tab.js(f"({KEY})('End')")
  assert tab.js(f'document.activeElement === {node}[{before - 1}]')
  tab.js(f"({KEY})('Home'); ({KEY})(' ')")
  assert tab.js(f'{node}.length') == 1
  press(tab, '.choices.plain button')
  assert tab.js(f'{node}.length') == len(searched[0].nodes)
  roles = tab.js(f"[...{node}].every(n => n.getAttribute('role') === 'treeitem')")
  one = tab.js('document.querySelectorAll(\'.node[tabindex="0"]\').length')
  assert roles and one == 1


def test_large_trees_are_drawn_in_parts(show):
  nodes = [report.TreeNode(-1)]
  nodes += [
    report.TreeNode((k - 1) // 3, (f'step {k}',), k / 2000) for k in range(1, 2000)
  ]
  tab = show(report.ReportData('trees', 'view', trees=[report.Tree('t', 'q', nodes)]))
  drawn = "document.querySelectorAll('.node').length"
  assert tab.js(drawn) <= 40
  press(tab, '.choices.plain button')
  assert tab.js(drawn) == 300
  press(tab, '.treebox > button')
  assert tab.js(drawn) == 600


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [320, 1280])
def test_pairs_and_trees_do_not_scroll_sideways(show, trees, width, dark):
  samples = view_example.pair([report_example.text_sample(),
                               *report_example.world_samples(10)])  # fmt: skip
  data = report.ReportData('both', 'view', samples=samples, trees=trees)
  tab = show(data, width=width, dark=dark)
  tab.js(UNFOLD)
  tab.js(UNFOLD.replace('#list', '#tree-list'))
  press_all = "document.querySelectorAll('.choices.plain button:first-child')"
  tab.js(f'{press_all}.forEach(b => b.click())')
  assert tab.js('document.documentElement.scrollWidth') == width
  outside = (
    "[...document.querySelectorAll('main *')].filter(n => !n.closest('svg, .heard') "
    '&& n.getBoundingClientRect().right > innerWidth + 1).map(n => n.className)'
  )
  assert tab.js(outside) == []


@pytest.mark.parametrize('width', [320, 1280])
def test_numbers_stay_in_their_boxes(show, width):
  scores = (-2.114, -99.123, -1234.5)
  reading = report.Reading('b', scores, 0, 0.0)
  one = report.Sample(
    'a', 'q', 'w', ('x',) * 3, scores, predicted_first_error=0, threshold=0.0
  )
  pair = dataclasses.replace(one, rival=reading)
  nodes = [report.TreeNode(-1), *(report.TreeNode(0, ('x',), v) for v in scores)]
  tree = report.Tree('t', 'q', nodes)
  for samples in [one], [pair]:
    data = report.ReportData('numbers', 'view', samples=samples, trees=[tree])
    tab = show(data, width=width)
    tab.js(UNFOLD)
    outside = """[...document.querySelectorAll('.chip, .step .score')].filter(n => {
      const text = document.createRange();
      text.selectNodeContents(n.lastChild);
      const [a, b] = [text.getBoundingClientRect(), n.getBoundingClientRect()];
      return a.left < b.left || a.right > b.right;
    }).map(n => n.textContent)"""
    assert tab.js("document.querySelectorAll('.chip, .step .score').length") >= 6
    assert tab.js(outside) == []


def test_hostile_trees_and_pairs_do_nothing(show):
  rival = report.Reading(HOSTILE, (0.1,), 0, 0.5)
  sample = report.Sample(
    HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), (0.9,), predicted_first_error=-1,
    threshold=0.5, benchmark=HOSTILE, scorer=HOSTILE, rival=rival,
  )  # fmt: skip
  nodes = [report.TreeNode(-1), report.TreeNode(0, (HOSTILE,), 1, HOSTILE)]
  tree = report.Tree(HOSTILE, HOSTILE, nodes, 1, HOSTILE, HOSTILE, facts={HOSTILE: 1})
  opened = show(report.ReportData(HOSTILE, 'view', samples=[sample], trees=[tree]))
  time.sleep(0.1)
  assert opened.js('window.hurt') is None
  assert opened.js("document.querySelectorAll('.node .text')[1].textContent") == HOSTILE


def test_the_widget_works_in_its_sandbox(tab, tmp_path):
  tab.problems.clear()
  samples = report_example.world_samples(60)
  samples[0] = dataclasses.replace(samples[0], question=HOSTILE, steps=[HOSTILE] * 3,
                                   scores=[0.1] * 3, truth=())  # fmt: skip
  frame = report.widget(samples)._repr_html_()
  (tmp_path / 'notebook.html').write_text(f'<!DOCTYPE html><p>a cell</p>{frame}')
  tab.open(f'file://{tmp_path}/notebook.html')
  # The sandbox keeps the page around the frame out of its reach, and it of ours.
  assert tab.js("document.querySelector('iframe').contentDocument") is None
  targets = tab.call('Target.getTargets')['targetInfos']
  inside = next(t['targetId'] for t in targets if t['type'] == 'iframe')
  outside = tab._session
  tab._session = tab.call('Target.attachToTarget', targetId=inside, flatten=True)[
    'sessionId'
  ]
  try:
    tab.wait(f"document.getElementById('shown') && {ROWS} === 25")
    press(tab, '[data-value=missed]')
    missed = [s.failure for s in samples].count('missed')
    assert f' of {missed} solutions (60 in all).' in tab.js(SHOWN)
    assert tab.js('window.hurt') is None
    tab.wait("document.querySelector('.choose').open")
  finally:
    tab._session = outside
  assert tab.js('window.hurt') is None and tab.problems == []


def speed(tab, path):
  """What a page costs: milliseconds and megabytes."""
  tab.open(f'file://{path}')
  load = tab.js("performance.getEntriesByType('navigation')[0].loadEventEnd")

  def timed(action):
    return tab.js(
      '(async () => { const start = performance.now(); '
      f'{action}; document.body.offsetHeight; return performance.now() - start }})()'
    )

  filters = [
    timed(f"document.querySelectorAll('#filters [data-value]')[{k}].click()")
    for k in (0, 0, 1, 1, 2, 2)
  ]
  order = timed("order.value = 'sure'; order.dispatchEvent(new Event('change'))")
  searched = tab.js(
    "(async () => { const shown = document.getElementById('shown'); "
    'const before = shown.textContent, start = performance.now(); '
    "query.value = '9'; query.dispatchEvent(new Event('input')); "
    'while (shown.textContent === before) await new Promise(r => setTimeout(r, 1)); '
    'return performance.now() - start })()'
  )
  tab.call('HeapProfiler.collectGarbage')
  used = tab.call('Runtime.getHeapUsage')['usedSize'] / 1e6
  return {
    'page_mb': round(path.stat().st_size / 1e6, 1), 'load_ms': round(load),
    'filter_ms': round(max(filters)), 'order_ms': round(order),
    'search_ms': round(searched), 'heap_mb': round(used, 1),
    'elements': tab.js("document.querySelectorAll('*').length"),
  }  # fmt: skip


def test_five_thousand_solutions_stay_usable(show, tmp_path, capsys):
  """`pytest -m slow tests/test_report_browser.py -k usable` prints the figures."""
  samples = view_example.pair(view_example.long_samples(5000))
  tab = show(report.ReportData('many', 'view', samples=samples))
  assert tab.js(ROWS) == 25
  found = speed(tab, tmp_path / 'report.html')
  with capsys.disabled():
    print(f'\n5,000 solutions, two scorers: {found}')
  assert 0 < tab.js(ROWS) <= 25
  assert found['elements'] < 5000 and found['heap_mb'] < 100
  # Ten times what it takes on a busy machine.
  assert found['load_ms'] < 8000 and found['filter_ms'] < 800
  assert found['search_ms'] < 3000 and found['order_ms'] < 800
