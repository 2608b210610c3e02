// A list that is filtered, sorted and paged; one page of it is in the document.
//
// browse({prefix, kind, noun, items, facets, always, orders, haystack, item, detail}):
// ids of the frame start with `prefix`; `item(x)` gives the parts of a row and
// `detail(x)` what opens below it; `#kind=id` is the address of an item.
const MOST_BUTTONS = 5;
const browse = ({prefix, kind, noun, items, facets: given, always, orders, haystack, item, detail}) => {
  const part = (name) => document.getElementById(prefix + name);
  const byId = new Map(items.map((s, i) => [s.id, i]));
  const state = {query: '', sort: 'given', page: 0, chosen: {}, open: new Set()};
  const size = data.page_size;
  let found = [];

  // ---- filtering and sorting -------------------------------------------------
  const facets = given.map((facet) => {
    const values = [...new Set([...(always[facet.key] || []), ...items.map((s) => s[facet.key] || '')])];
    const order = Object.keys(facet.names);
    if (order.length) values.sort((a, b) => order.indexOf(a) - order.indexOf(b));
    state.chosen[facet.key] = new Set();
    return {...facet, values, counts: new Map()};
  }).filter((facet) => facet.values.length > 1);
  const nameOf = (facet, value) => facet.names[value] || plain(value) || 'not given';
  const search = () => {
    const query = state.query.trim().toLowerCase();
    for (const facet of facets) facet.counts = new Map(facet.values.map((v) => [v, 0]));
    found = [];
    items.forEach((s, i) => {
      if (query && !(s.hay ??= haystack(s).filter(has).join('\n').toLowerCase()).includes(query)) return;
      const failing = facets.filter((f) => {
        const chosen = state.chosen[f.key];
        return chosen.size && !chosen.has(s[f.key] || '');
      });
      // A value's count is what choosing it would show: all other filters hold.
      const tallied = failing.length === 0 ? facets : failing.length === 1 ? failing : [];
      for (const f of tallied) f.counts.set(s[f.key] || '', f.counts.get(s[f.key] || '') + 1);
      if (!failing.length) found.push(i);
    });
    const compare = orders[state.sort][1];
    if (compare) found.sort((a, b) => compare(items[a], items[b]) || a - b);
  };

  // ---- rows ------------------------------------------------------------------
  const remember = (id) => {
    try {
      history.replaceState(null, '', `#${kind}=${encodeURIComponent(id)}`);
    } catch (error) {
      // Some frames (a notebook's) have no address of their own; links are optional.
    }
  };
  const entry = (i) => {
    const s = items[i];
    const open = state.open.has(i);
    const row = el('button', {class: 'row', type: 'button', 'aria-expanded': String(open)}, ...item(s));
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
  const list = part('list');
  const filters = part('filters');
  const draw = (message) => {
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    state.page = Math.min(Math.max(state.page, 0), last);
    const from = state.page * size;
    const here = found.slice(from, from + size);
    list.replaceChildren(...here.map(entry));
    if (!here.length) list.append(el('li', {class: 'none'}, `No ${noun} matches these filters.`));
    const range = here.length ? `${count(from + 1)} to ${count(from + here.length)} of ` : '';
    const of = found.length === items.length ? '' : ` (${count(items.length)} in all)`;
    part('shown').textContent = message || `Showing ${range}${count(found.length)} ${noun}s${of}.`;
    const turn = (by, text) => el('button', {type: 'button', disabled: by < 0 ? state.page === 0 : state.page === last,
      onclick: () => {
        state.page += by;
        draw();
        filters.scrollIntoView();
        list.querySelector('.row').focus({preventScroll: true});
      }}, text);
    part('pages').replaceChildren(...(last ? [turn(-1, 'Previous'),
      el('span', null, `page ${count(state.page + 1)} of ${count(last + 1)}`), turn(1, 'Next')] : []));
  };

  // ---- controls --------------------------------------------------------------
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
    if (facet.values.length > MOST_BUTTONS && !Object.keys(facet.names).length) {
      const select = el('select', {'aria-label': facet.title, 'data-facet': facet.key, onchange: () => {
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
  const box = el('input', {type: 'search', id: `${prefix}query`, autocomplete: 'off', spellcheck: 'false'});
  let waiting = 0;
  box.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = box.value; state.page = 0; update(); }, 120);
  });
  const order = el('select', {id: `${prefix}order`, onchange: () => { state.sort = order.value; state.page = 0; update(); }},
    ...Object.entries(orders).map(([key, [name]]) => el('option', {value: key}, name)));
  const unfold = el('button', {type: 'button', onclick: () => {
    const here = found.slice(state.page * size, (state.page + 1) * size);
    const closing = here.every((i) => state.open.has(i));
    for (const i of here) closing ? state.open.delete(i) : state.open.add(i);
    draw();
  }}, 'Open or close this page');
  if (items.length > 1) {
    const wide = matchMedia('(min-width: 46rem)');
    const choose = el('details', {class: 'choose', open: wide.matches}, el('summary', null, 'Filters'),
      ...controls.map((c) => c.node));
    // A frame may get its width after its script has run.
    wide.addEventListener('change', () => { choose.open = wide.matches; });
    filters.append(...(controls.length ? [choose] : []), el('div', {class: 'tools'},
      el('label', null, 'Search in questions, steps, answers and ids', box),
      el('label', null, 'Order', order), unfold));
  } else filters.remove();
  const update = (message) => {
    search();
    for (const control of controls) control.fresh();
    draw(message);
  };

  // ---- addresses: #kind=id ---------------------------------------------------
  const follow = () => {
    const start = `#${kind}=`;
    if (!location.hash.startsWith(start)) return false;
    let id = location.hash.slice(start.length);
    try { id = decodeURIComponent(id); } catch (error) { /* keep it as written */ }
    const index = byId.get(id);
    if (index === undefined) {
      update(`No ${noun} here has the id ${id}.`);
      return true;
    }
    search();
    if (!found.includes(index)) {
      for (const chosen of Object.values(state.chosen)) chosen.clear();
      state.query = box.value = '';
      search();
    }
    state.page = Math.floor(found.indexOf(index) / size);
    state.open.add(index);
    update();
    const node = list.querySelector(`[data-index="${index}"]`);
    node.scrollIntoView();
    node.firstChild.focus({preventScroll: true});
    return true;
  };
  addEventListener('hashchange', follow);
  if (!follow()) {
    state.open.add(0);
    update();
  }
};
