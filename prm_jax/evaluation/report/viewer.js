'use strict';
// Filters, sorts and pages the solutions of a report. Text from the data reaches the
// page as text nodes only. One page of solutions is in the document at a time.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const samples = data.samples;
  const byId = new Map(samples.map((s, i) => [s.id, i]));
  const LONG = 1500;
  const MOST_BUTTONS = 5;
  const GOOD = new Set(['found', 'accepted']);
  const state = {query: '', sort: 'given', page: 0, chosen: {}, open: new Set()};
  let found = [];

  // ---- building blocks -------------------------------------------------------
  const make = (space, name, attributes, children) => {
    const node = space ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? '' : value);
    }
    for (const child of children) if (child !== null) node.append(child);
    return node;
  };
  const el = (name, attributes, ...children) => make(null, name, attributes, children);
  const svg = (name, attributes, ...children) =>
    make('http://www.w3.org/2000/svg', name, attributes, children);
  const has = (v) => v !== null && v !== undefined;
  const count = (n) => n.toLocaleString('en');
  const show = (v, digits = 3) => has(v)
    ? v.toFixed(Math.abs(v) >= 100 ? 1 : digits).replace('-', '\u2212') : '\u2013';
  const split = (name) => name.replaceAll('_', ' ');

  // ---- what a score means ----------------------------------------------------
  // -1 as wrong as it gets, 0 at the threshold, 1 as correct as it gets.
  const lean = (s, score) => {
    const [low, middle, high] = data.scales[s.scale];
    const reach = score > middle ? high - middle : middle - low;
    const share = reach > 0 ? (score - middle) / reach : Math.sign(score - middle);
    return Math.max(-1, Math.min(1, share));
  };
  const deciding = (s) => {
    const scores = s.scores || [];
    if (s.predicted >= 0 && has(scores[s.predicted])) return scores[s.predicted];
    const known = scores.filter(has);
    return known.length ? known.reduce((a, b) => Math.min(a, b)) : null;
  };
  for (const s of samples) {
    const score = has(s.threshold) ? deciding(s) : null;
    s.confidence = has(score) ? Math.abs(lean(s, score)) : -1;
  }
  const paint = (node, t) => {
    node.classList.add(t >= 0 ? 'up' : 'down');
    node.style.setProperty('--part', `${Math.round(25 + 75 * Math.abs(t))}%`);
    return node;
  };

  // ---- filtering and sorting -------------------------------------------------
  const facets = data.facets.map((facet) => {
    const values = [...new Set([...(data.always[facet.key] || []), ...samples.map((s) => s[facet.key] || '')])];
    const order = Object.keys(facet.names);
    if (order.length) values.sort((a, b) => order.indexOf(a) - order.indexOf(b));
    state.chosen[facet.key] = new Set();
    return {...facet, values, counts: new Map()};
  }).filter((facet) => facet.values.length > 1);
  const nameOf = (facet, value) => facet.names[value] || split(value) || 'not given';
  const haystack = (s) => (s.hay ??= [s.id, s.question, ...(s.steps || []), s.answer,
    s.gold_answer, s.generator].filter(has).join('\n').toLowerCase());
  const ORDERS = {
    given: ['as given', null],
    sure: ['most confident first', (a, b) => samples[b].confidence - samples[a].confidence],
    unsure: ['least confident first', (a, b) => samples[a].confidence - samples[b].confidence],
    long: ['most steps first', (a, b) => (samples[b].steps || []).length - (samples[a].steps || []).length],
  };
  const search = () => {
    const query = state.query.trim().toLowerCase();
    for (const facet of facets) facet.counts = new Map(facet.values.map((v) => [v, 0]));
    found = [];
    samples.forEach((s, i) => {
      if (query && !haystack(s).includes(query)) return;
      const failing = facets.filter((f) => {
        const chosen = state.chosen[f.key];
        return chosen.size && !chosen.has(s[f.key] || '');
      });
      // A value's count is what choosing it would show: all other filters hold.
      const counted = failing.length === 0 ? facets : failing.length === 1 ? failing : [];
      for (const f of counted) {
        f.counts.set(s[f.key] || '', f.counts.get(s[f.key] || '') + 1);
      }
      if (!failing.length) found.push(i);
    });
    const compare = ORDERS[state.sort][1];
    if (compare) found.sort((a, b) => compare(a, b) || a - b);
  };

  // ---- one solution ----------------------------------------------------------
  const diamond = (x, y) => `M${x} ${y - 4}l4 4-4 4-4-4z`;
  const triangle = (x, y) => `M${x - 4} ${y + 3.5}l4-7 4 7z`;
  const strip = (s) => {
    const n = (s.scores || []).length;
    const pitch = Math.max(1.5, Math.min(16, 170 / n));
    const gap = pitch > 8 ? 2 : pitch > 3 ? 1 : 0.3;
    const wide = pitch - gap;
    const total = Math.max(n * pitch, 10);
    const out = svg('svg', {class: 'strip', viewBox: `-2 0 ${total + 4} 36`,
      width: total + 4, height: 36, 'aria-hidden': 'true'});
    (s.scores || []).forEach((score, k) => {
      const x = k * pitch;
      out.append(svg('rect', {class: 'cell', x, y: 9, width: wide, height: 18, rx: 1.5}));
      if (has(score)) {
        const t = lean(s, score);
        const height = 2 + (t + 1) * 8;
        out.append(paint(svg('rect', {class: 'fill', x, y: 27 - height, width: wide, height, rx: 1.5}), t));
      }
      if (s.gold === k) out.append(svg('path', {class: 'gold', d: diamond(x + wide / 2, 4)}));
      if (s.predicted === k) out.append(svg('path', {class: 'predicted', d: triangle(x + wide / 2, 32)}));
    });
    return out;
  };
  const symbol = (which) => svg('svg', {class: `symbol ${which}`, viewBox: '0 0 10 10', 'aria-hidden': 'true'},
    svg('path', {d: which === 'gold' ? 'M5 0 10 5 5 10 0 5z' : 'M0 9 5 0 10 9z'}));
  const words = (text, attributes) => {
    const node = el('div', {class: 'text', dir: 'auto', ...attributes});
    if (text.length <= LONG) {
      node.textContent = text;
      return node;
    }
    node.textContent = text.slice(0, LONG) + '\u2026';
    const more = el('button', {class: 'all', type: 'button', onclick: () => (node.textContent = text)},
      `Show all ${count(text.length)} characters`);
    node.append(el('br'), more);
    return node;
  };
  const truthOf = (value) => {
    if (!has(value)) return ['no label', ''];
    if (value === 1) return ['\u2713 right', ''];
    if (value === 0) return ['\u2717 wrong', 'bad'];
    return [`truth ${show(value, 2)}`, value < 0.5 ? 'bad' : ''];
  };
  const step = (s, text, k) => {
    const score = (s.scores || [])[k];
    const marks = [];
    if (s.gold === k) marks.push(el('span', null, symbol('gold'), ' first wrong step (truth)'));
    if (s.predicted === k) marks.push(el('span', null, symbol('predicted'), ' first wrong step (model)'));
    const [label, kind] = truthOf((s.truth || [])[k]);
    const row = el('li', {class: 'step' + (s.gold === k ? ' isgold' : '') + (s.predicted === k ? ' ispredicted' : '')
      + (text.length <= 14 && !text.includes('\n') ? ' short' : '')},
      el('span', {class: 'index', 'aria-label': `step ${k + 1}`}, String(k + 1)),
      el('span', {class: 'score'}, show(score)),
      el('span', {class: `label ${kind}`}, s.truth ? label : ''),
      words(text),
      marks.length ? el('div', {class: 'marks'}, ...marks) : null);
    if (has(score)) paint(row, lean(s, score));
    else row.classList.add('unscored');
    return row;
  };
  const fact = (name, value) => (has(value) && value !== ''
    ? el('span', null, `${name} `, el('b', {class: 'text'}, value)) : null);
  const detail = (s) => {
    const question = s.question || '';
    const verdict = {right: ' (right)', wrong: ' (wrong)'}[s.verdict] || ' (not judged)';
    const heads = el('li', {class: 'step headings', 'aria-hidden': 'true'},
      el('span'), el('span', null, 'score'), el('span', null, s.truth ? 'truth' : ''),
      el('span', null, 'step'));
    const link = `#solution=${encodeURIComponent(s.id)}`;
    return el('div', {class: 'detail'},
      // A short question stands whole in the row above.
      question.length > 40 || question.includes('\n') ? words(question, {class: 'question text'}) : null,
      el('ol', {class: 'steps'}, heads, ...(s.steps || []).map((text, k) => step(s, text, k))),
      el('p', {class: 'outcome'},
        fact('answer', has(s.answer) ? s.answer + verdict : 'none'),
        fact('reference', s.gold_answer), fact('threshold', has(s.threshold) ? show(s.threshold) : null),
        fact('written by', s.generator), el('a', {href: link}, `link to ${s.id}`)));
  };
  const item = (i) => {
    const s = samples[i];
    const names = data.facets.find((f) => f.key === 'failure').names;
    const open = state.open.has(i);
    const sure = s.confidence < 0 ? '' : `confidence ${s.confidence.toFixed(2)}`;
    const tone = s.failure === 'unknown' ? ' unknown' : GOOD.has(s.failure) ? '' : ' miss';
    const question = (s.question || '').slice(0, 240);
    const row = el('button', {class: 'row', type: 'button', 'aria-expanded': String(open)},
      el('span', {class: `failure${tone}`}, names[s.failure]),
      el('span', {class: 'ask', dir: 'auto'}, el('small', null, split(s.split || '')), question),
      strip(s), el('span', {class: 'sure'}, sure));
    const node = el('li', {'data-index': i}, row, open ? detail(s) : null);
    row.addEventListener('click', () => {
      const opening = !state.open.has(i);
      row.setAttribute('aria-expanded', String(opening));
      if (opening) {
        state.open.add(i);
        node.append(detail(s));
        remember(s.id);
      } else {
        state.open.delete(i);
        node.lastChild.remove();
      }
    });
    return node;
  };
  const remember = (id) => {
    try {
      history.replaceState(null, '', `#solution=${encodeURIComponent(id)}`);
    } catch (error) {
      // Some frames (a notebook's) have no address of their own; links are optional.
    }
  };

  // ---- the page --------------------------------------------------------------
  const list = document.getElementById('list');
  const status = document.getElementById('shown');
  const pages = document.getElementById('pages');
  const draw = (message) => {
    const last = Math.max(0, Math.ceil(found.length / data.page_size) - 1);
    state.page = Math.min(Math.max(state.page, 0), last);
    const from = state.page * data.page_size;
    const here = found.slice(from, from + data.page_size);
    list.replaceChildren(...here.map(item));
    if (!here.length) list.append(el('li', {class: 'none'}, 'No solution matches these filters.'));
    const range = here.length ? `${count(from + 1)} to ${count(from + here.length)} of ` : '';
    const of = found.length === samples.length ? '' : ` (${count(samples.length)} in all)`;
    status.textContent = message || `Showing ${range}${count(found.length)} solutions${of}.`;
    const turn = (by, text) => el('button', {type: 'button', disabled: by < 0 ? state.page === 0 : state.page === last,
      onclick: () => { state.page += by; draw(); document.getElementById('filters').scrollIntoView(); }}, text);
    pages.replaceChildren(...(last ? [turn(-1, 'Previous'),
      el('span', null, `page ${count(state.page + 1)} of ${count(last + 1)}`), turn(1, 'Next')] : []));
  };
  const filters = document.getElementById('filters');
  const group = (facet, ...inside) => el('fieldset', null, el('legend', null, facet.title),
    el('div', {class: 'choices'}, ...inside));
  const controls = facets.map((facet) => {
    const chosen = state.chosen[facet.key];
    const toggle = (value) => {
      if (value === null) chosen.clear();
      else if (!chosen.delete(value)) chosen.add(value);
      state.page = 0;
      update();
    };
    if (facet.values.length > MOST_BUTTONS && !data.always[facet.key]) {
      const select = el('select', {'aria-label': facet.title, onchange: () => {
        chosen.clear();
        if (select.value !== 'all') chosen.add(facet.values[Number(select.value)]);
        state.page = 0;
        update();
      }});
      const fresh = () => {
        const at = chosen.size ? String(facet.values.indexOf([...chosen][0])) : 'all';
        select.replaceChildren(el('option', {value: 'all'}, 'all'), ...facet.values.map((v, k) =>
          el('option', {value: k}, `${nameOf(facet, v)} (${count(facet.counts.get(v))})`)));
        select.value = at;
      };
      return {node: group(facet, select), fresh};
    }
    const all = el('button', {type: 'button', onclick: () => toggle(null)}, 'all');
    const buttons = facet.values.map((v) => {
      const number = el('span', {class: 'count'});
      const node = el('button', {type: 'button', 'data-facet': facet.key, 'data-value': v, onclick: () => toggle(v)},
        nameOf(facet, v), number);
      return {v, node, number};
    });
    const fresh = () => {
      all.setAttribute('aria-pressed', String(!chosen.size));
      for (const {v, node, number} of buttons) {
        node.setAttribute('aria-pressed', String(chosen.has(v)));
        number.textContent = count(facet.counts.get(v));
      }
    };
    return {node: group(facet, all, ...buttons.map((b) => b.node)), fresh};
  });
  const box = el('input', {type: 'search', id: 'query', autocomplete: 'off', spellcheck: 'false'});
  let waiting = 0;
  box.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = box.value; state.page = 0; update(); }, 120);
  });
  const order = el('select', {id: 'order', onchange: () => { state.sort = order.value; state.page = 0; update(); }},
    ...Object.entries(ORDERS).map(([key, [name]]) => el('option', {value: key}, name)));
  const unfold = el('button', {type: 'button', onclick: () => {
    const here = found.slice(state.page * data.page_size, (state.page + 1) * data.page_size);
    const closing = here.every((i) => state.open.has(i));
    for (const i of here) closing ? state.open.delete(i) : state.open.add(i);
    draw();
  }}, 'Open or close this page');
  filters.append(...controls.map((c) => c.node), el('div', {class: 'tools'},
    el('label', null, 'Search in questions, steps, answers and ids', box),
    el('label', null, 'Order', order), unfold));
  const update = (message) => {
    search();
    for (const control of controls) control.fresh();
    draw(message);
  };

  // ---- addresses: #solution=id -----------------------------------------------
  const follow = () => {
    const match = /^#solution=(.*)$/.exec(location.hash);
    if (!match) return false;
    let id = match[1];
    try { id = decodeURIComponent(id); } catch (error) { /* keep it as written */ }
    const index = byId.get(id);
    if (index === undefined) {
      update(`No solution here has the id ${id}.`);
      return true;
    }
    search();
    if (!found.includes(index)) {
      for (const chosen of Object.values(state.chosen)) chosen.clear();
      state.query = box.value = '';
      search();
    }
    state.page = Math.floor(found.indexOf(index) / data.page_size);
    state.open.add(index);
    update();
    const node = list.querySelector(`[data-index="${index}"]`);
    node.scrollIntoView();
    node.firstChild.focus({preventScroll: true});
    return true;
  };
  addEventListener('hashchange', follow);
  if (!follow()) {
    if (samples.length) state.open.add(0);
    update();
  }
})();
