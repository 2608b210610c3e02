"""The report in a real browser: no errors, filters that count, a phone's width."""

import time

import browser
import pytest
import report_example

from prm_jax.evaluation import report

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


def test_five_thousand_solutions_are_drawn_a_page_at_a_time(show):
  samples = report_example.world_samples(5000)
  tab = show(report.ReportData('many', 'evaluate', samples=samples))
  assert tab.js(ROWS) == 25
  tab.js("document.querySelector('[data-value=missed]').click()")
  assert 0 < tab.js(ROWS) <= 25
