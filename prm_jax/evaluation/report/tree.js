// Trees: nodes in rows, indented only where a path forks, coloured by value. A node's
// parent stands before it. Arrow keys move as in any tree; only open nodes are drawn.
const MOST_ROWS = 300;
const FIRST_ROWS = 40;

const treeView = (tree) => {
  const nodes = tree.nodes;
  const below = nodes.map(() => []);
  const level = [], indent = [];
  nodes.forEach((node, i) => { if (i) below[node.parent].push(i); });
  nodes.forEach((node, i) => {
    level.push(i ? level[node.parent] + 1 : 1);
    indent.push(i ? indent[node.parent] + (below[node.parent].length > 1 ? 1 : 0) : 0);
  });
  let open = new Set(), room = MOST_ROWS, active = 0, rows = [];
  const first = () => {
    open = new Set();
    if (has(tree.chosen)) {
      nodes.forEach((node, i) => { if (node.chosen && below[i].length) open.add(i); });
      return;
    }
    let drawn = 1;
    nodes.forEach((node, i) => {
      if (!below[i].length || drawn + below[i].length > FIRST_ROWS || (i && !open.has(node.parent))) return;
      open.add(i);
      drawn += below[i].length;
    });
  };
  const visible = () => {
    const out = [], stack = [0];
    while (stack.length) {
      const i = stack.pop();
      out.push(i);
      if (open.has(i)) for (let k = below[i].length - 1; k >= 0; k--) stack.push(below[i][k]);
    }
    return out;
  };
  const under = nodes.map(() => 0);
  for (let i = nodes.length - 1; i > 0; i--) under[nodes[i].parent] += under[i] + 1;

  const box = el('div', {class: 'tree', role: 'tree', 'aria-label': `tree of ${tree.id}`});
  const more = el('button', {type: 'button', onclick: () => { room += MOST_ROWS; draw(); }});
  const row = (i) => {
    const node = nodes[i];
    const inner = below[i].length > 0;
    const expanded = open.has(i);
    const siblings = i ? below[node.parent] : [0];
    const forked = siblings.length > 1;
    const out = el('div', {class: `node${node.chosen ? ' chosen' : ''}${forked ? ' head' : ''}`, role: 'treeitem', 'data-node': i,
      tabindex: i === active ? 0 : -1, 'aria-level': level[i], 'aria-posinset': siblings.indexOf(i) + 1,
      'aria-setsize': siblings.length, 'aria-expanded': inner ? String(expanded) : null},
    el('span', {class: 'twist', 'aria-hidden': 'true'}, inner ? (expanded ? '\u25be' : '\u25b8') : '\u00b7'),
    chip(tree.scale, node.value),
    el('div', {class: 'said'},
      words(i ? (node.steps || []).join('\n') : 'question'),
      el('div', {class: 'about'},
        node.chosen ? el('b', {class: i === tree.chosen ? null : 'heard'}, i === tree.chosen ? 'chosen' : 'on the chosen path') : null,
        node.right === undefined ? null : el('b', null, node.right ? '\u2713 right answer' : '\u2717 wrong answer'),
        node.note ? el('span', null, node.note) : null,
        inner && !expanded ? el('span', null, `${counted(under[i], 'node', 'nodes')} below`) : null)));
    // What goes on from the head of a branch without a fork stands half a move further in.
    out.style.setProperty('--in', String(Math.min(indent[i], 12) + (forked || !i ? 0 : 0.5)));
    out.style.setProperty('--lines', String(Math.min(indent[i], 12)));
    return out;
  };
  const draw = (focus = false) => {
    rows = visible();
    if (!rows.includes(active)) active = 0;
    if (rows.indexOf(active) >= room) room = rows.indexOf(active) + 1;
    box.replaceChildren(...rows.slice(0, room).map(row));
    more.hidden = rows.length <= room;
    more.textContent = `Show more (${count(Math.max(0, rows.length - room))} nodes are open below)`;
    if (focus) box.querySelector(`[data-node="${active}"]`).focus();
  };
  const move = (i) => {
    if (i === undefined) return;
    active = i;
    draw(true);
  };
  const flip = (i) => {
    if (!open.delete(i) && below[i].length) open.add(i);
    move(i);
  };
  box.addEventListener('click', (event) => {
    const hit = event.target.closest('.node');
    if (hit && !String(getSelection())) flip(Number(hit.dataset.node));
  });
  box.addEventListener('keydown', (event) => {
    if (event.target.closest('button')) return;
    const at = rows.indexOf(active);
    const keys = {
      ArrowDown: () => move(rows[at + 1]),
      ArrowUp: () => move(rows[at - 1]),
      Home: () => move(rows[0]),
      End: () => move(rows[rows.length - 1]),
      ArrowRight: () => (open.has(active) || !below[active].length ? move(below[active][0]) : flip(active)),
      ArrowLeft: () => (open.has(active) ? flip(active) : active && move(nodes[active].parent)),
      Enter: () => flip(active),
      ' ': () => flip(active),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  const button = (text, change) => el('button', {type: 'button', onclick: () => { change(); draw(); }}, text);
  first();
  draw();
  return el('div', {class: 'treebox'},
    el('div', {class: 'choices plain'},
      button('Open all', () => nodes.forEach((_, i) => below[i].length && open.add(i))),
      button('Close all', () => open.clear()),
      button(!has(tree.chosen) ? 'As at first' : 'Chosen path', first)),
    box, more);
};

const treeDetail = (t) => {
  const verdict = {right: ' (right)', wrong: ' (wrong)'}[t.verdict] || '';
  return el('div', {class: 'detail'},
    words(t.question || '', {class: 'question text'}), treeView(t),
    el('p', {class: 'outcome'}, fact('answer', has(t.answer) ? t.answer + verdict : null),
      fact('reference', t.gold_answer), ...(t.facts || []).map(([name, value]) => fact(plain(name), value)),
      el('a', {href: `#tree=${encodeURIComponent(t.id)}`}, `link to ${t.id}`)));
};
const treeItem = (t) => {
  const tone = {right: '', wrong: ' miss'}[t.verdict] ?? ' unknown';
  const path = t.nodes.filter((n) => n.chosen && n.parent >= 0);
  const told = {right: 'right', wrong: 'wrong'}[t.verdict]
    || (has(t.chosen) ? 'not judged' : `value ${show(t.nodes[0].value, 2)}`);
  return [el('span', {class: `failure${tone}`}, told),
    el('span', {class: 'ask', dir: 'auto'}, el('small', null, [t.algorithm, t.split].filter(Boolean).map(plain).join(', ')),
      (t.question || '').slice(0, 240)),
    path.length ? strip([{scores: path.map((n) => n.value ?? null), scale: t.scale}]) : el('span', {class: 'strip'}),
    el('span', {class: 'sure'}, counted(t.nodes.length - 1, 'node', 'nodes'))];
};
if (data.trees.length) {
  browse({prefix: 'tree-', kind: 'tree', noun: 'tree', items: data.trees, facets: data.tree_facets, always: {},
    orders: {given: ['as given', null], large: ['most nodes first', (a, b) => b.nodes.length - a.nodes.length]},
    item: treeItem, detail: treeDetail,
    haystack: (t) => [t.id, t.question, t.answer, t.gold_answer, ...t.nodes.flatMap((n) => n.steps || [])]});
}
