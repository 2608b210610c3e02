"""Chat templates: where they come from, what they give, what they cannot reach."""

import json
from pathlib import Path

import pytest

from prm_jax.errors import UserError
from prm_jax.formats import chat_template

GOLDENS = Path(__file__).parent / 'fixtures' / 'goldens'
CHATML = (GOLDENS / 'chatml.jinja').read_text()
LLAMA3 = (GOLDENS / 'llama3.jinja').read_text()
CHAT = [{'role': 'user', 'content': '1 < 2 & "so" on'}]


def test_where_templates_come_from(tmp_path):
  assert chat_template.load_template(tmp_path) is None
  (tmp_path / 'chat_template.json').write_text('{"chat_template": "third"}')
  assert chat_template.load_template(tmp_path) == 'third'
  named = [{'name': 'default', 'template': 'second'}, {'name': 'rag', 'template': 'r'}]
  config = tmp_path / 'tokenizer_config.json'
  config.write_text(json.dumps({'chat_template': named}))
  assert chat_template.load_template(tmp_path) == 'second'
  assert chat_template.load_template(tmp_path, 'rag') == 'r'
  with pytest.raises(UserError, match=r"'tool'; it has default, rag"):
    chat_template.load_template(tmp_path, 'tool')
  (tmp_path / 'chat_template.jinja').write_text('first')
  assert chat_template.load_template(tmp_path) == 'first'


def test_the_language_is_that_of_transformers():
  template = (
    '{{ bos_token }}\n'
    '  {% for m in messages %}\n'
    '{{ m.content }}{% if loop.index > 1 %}{% break %}{% endif %}\n'
    '  {% endfor %}\n'
    '{{ messages[0] | tojson }}{{ strftime_now("%d %B %Y") }}{{ missing }}'
    '{% generation %} said{% endgeneration %}'
    '{% if add_generation_prompt %}?{% endif %}{% set ns = namespace(n=1) %}{{ ns.n }}'
  )
  text = chat_template.render(
    template, CHAT, specials={'bos_token': '<s>'}, add_generation_prompt=True,
    date='2025-02-03',
  )  # fmt: skip
  assert text == (
    '<s>\n1 < 2 & "so" on{"role": "user", "content": "1 < 2 & \\"so\\" on"}'
    '03 February 2025 said?1'
  )
  with pytest.raises(UserError, match=r'date=.*YYYY-MM-DD'):
    chat_template.render('', CHAT, date='today')


def test_question_templates():
  head = '<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n'
  tail = '<|im_end|>\n<|im_start|>assistant\n'
  text = chat_template.question_template(CHATML, system='Be brief.')
  assert text == head.format('Be brief.') + '{question}' + tail
  # The template's own default holds where no system message is given.
  default = 'Please reason step by step, and put your final answer within \\boxed{}.'
  text = chat_template.question_template(CHATML, question='Problem: {question} ')
  assert text == head.format(default) + 'Problem: {question} ' + tail
  assert chat_template.trims(LLAMA3) and not chat_template.trims(CHATML)
  # What is written before a finished answer, not what a generation prompt adds.
  thinking = CHATML + '{% if add_generation_prompt %}<think>\n{% endif %}'
  assert chat_template.question_template(thinking, system='S').endswith(tail)
  with pytest.raises(UserError, match='question 2 times'):
    chat_template.question_template('{{ messages[0].content * 2 }}')


def test_turns():
  found = chat_template.turn_templates(
    LLAMA3, between='\n\n', system='S', specials={'bos_token': '<b>'}
  )
  user = '<|start_header_id|>user<|end_header_id|>\n\n'
  close = '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'
  assert found.question_template.startswith('<b><|start_header_id|>system')
  assert found.question_template.endswith(
    f'26 Jul 2024\n\nS<|eot_id|>{user}{{question}}\n\n'
  )
  assert found.first_step_template == '{step}' + close
  assert found.step_template == f'<|eot_id|>{user}{{step}}{close}'
  assert found.strip
  numbered = '{% for m in messages %}{{ loop.index }} {{ m.content }};{% endfor %}'
  with pytest.raises(UserError, match='each turn once, in order and like the others'):
    chat_template.turn_templates(numbered)
  last = '{{ messages[-1].content }}'
  with pytest.raises(UserError, match='write the templates by hand'):
    chat_template.turn_templates(last)


@pytest.mark.parametrize('template, words', [
  ("{% include '/etc/passwd' %}", 'includes, imports or extends a file'),
  ("{% import 'os' as os %}", 'includes, imports or extends a file'),
  ("{% extends 'x' %}", 'includes, imports or extends a file'),
  ("{{ open('/etc/passwd').read() }}", "'open' is undefined"),
  ("{{ ''.__class__.__mro__ }}", 'reaches out of its sandbox'),
  ('{{ cycler.__init__.__globals__.os }}', 'reaches out of its sandbox'),
  ("{{ ('{0.__class__.__mro__}').format(1).nope.nope }}", 'undefined|sandbox'),
  ('{{ messages.append(1) }}', 'reaches out of its sandbox'),
  ("{{ raise_exception('only two roles') }}", 'it says: only two roles'),
  ('{% if %}', 'line 1: Expected an expression'),
  ('{{ range(10 ** 9) }}', 'Range too big'),
  ("{{ 'x' * 10 ** 10 }}", '256 MiB of memory'),
  ('{% for i in range(99999) %}{{ "x" * 20 }}{% endfor %}', '1000000 characters'),
  ('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'recursion without end'),
  ('{{ "abc def" | wordwrap(0) }}', 'used: invalid width 0'),
  ('{% for i in [1] %}' * 60 + '{% endfor %}' * 60, 'too many statically nested'),
  ('{% break %}', "used: 'break' outside loop"),
  ('{% set c = cycler() %}', 'used: at least one item has to be provided'),
  ('{{ "abc" | truncate(-1) }}', 'used: expected length >= 3'),
  ('{{ "x".encode("idna") }}', 'needs a file, and may not open any'),
  ("{{ raise_exception('a\nb' * 10 ** 3) }}", 'it says: a ba ba b'),
  ("{{ raise_exception('x' * 10 ** 8) }}", '256 MiB of memory'),
])  # fmt: skip
def test_what_a_template_cannot_do(template, words):
  with pytest.raises(UserError, match=words) as e:
    chat_template.render(template, CHAT)
  assert '\n' not in str(e.value) and len(str(e.value)) < 500


def test_what_loads_late_is_there_before_the_limits():
  text = '{{ "\\N{DIGIT ONE} <b>two" | striptags | wordwrap(3) | pprint }}'
  assert chat_template.render(text, CHAT) == "'1\\ntwo'"


def test_a_template_without_end_is_stopped(monkeypatch):
  monkeypatch.setattr(chat_template, 'CPU_SECONDS', 1)
  loop = (
    '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}'
  )
  with pytest.raises(UserError, match='1 s of CPU time'):
    chat_template.render(loop, CHAT)
