// Building blocks: elements, numbers in words, colours of scores, strips, long texts.
// Text from the data reaches the page as text nodes only.
const LONG = 1500;
const data = JSON.parse(document.getElementById('data').textContent);

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
const counted = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
const show = (v, digits = 3) => has(v)
  ? v.toFixed(Math.abs(v) >= 100 ? 1 : digits).replace('-', '\u2212') : '\u2013';
const plain = (name) => name.replaceAll('_', ' ');

// -1 as wrong as it gets, 0 at the threshold, 1 as correct as it gets.
const lean = (scale, score) => {
  const [low, middle, high] = data.scales[scale];
  const reach = score > middle ? high - middle : middle - low;
  const share = reach > 0 ? (score - middle) / reach : Math.sign(score - middle);
  return Math.max(-1, Math.min(1, share));
};
const paint = (node, t) => {
  node.classList.add(t >= 0 ? 'up' : 'down');
  node.style.setProperty('--part', `${Math.round(25 + 75 * Math.abs(t))}%`);
  return node;
};
const chip = (scale, score, whose) => {
  const node = el('span', {class: 'chip'}, whose ? el('span', {class: 'heard'}, whose) : null, show(score));
  return has(score) ? paint(node, lean(scale, score)) : node;
};

const SHAPES = {gold: 'M5 0 10 5 5 10 0 5z', predicted: 'M0 9 5 0 10 9z', rival: 'M0 1 10 1 5 10z'};
const symbol = (which) => svg('svg', {class: `symbol ${which}`, viewBox: '0 0 10 10', 'aria-hidden': 'true'},
  svg('path', {d: SHAPES[which]}));

// Cells of one or two rows of scores, step by step; marks of the first wrong step.
const strip = (readings, gold) => {
  const n = Math.max(0, ...readings.map((r) => (r.scores || []).length));
  const pitch = Math.max(1.5, Math.min(16, 170 / n));
  const gap = pitch > 8 ? 2 : pitch > 3 ? 1 : 0.3;
  const wide = pitch - gap;
  const two = readings.length > 1;
  const tall = two ? 13 : 18;
  const left = two ? 11 : 0;
  const width = left + Math.max(n * pitch, 10) + 4;
  const height = 9 + readings.length * (tall + 9);
  const out = svg('svg', {class: 'strip', viewBox: `-2 0 ${width} ${height}`, width, height, 'aria-hidden': 'true'});
  const mark = (which, k, y) => {
    const x = left + k * pitch + wide / 2;
    const d = {gold: `M${x} ${y - 4}l4 4-4 4-4-4z`, predicted: `M${x - 4} ${y + 3.5}l4-7 4 7z`,
      rival: `M${x - 4} ${y - 3.5}h8l-4 7z`}[which];
    out.append(svg('path', {class: which, d}));
  };
  if (gold >= 0) mark('gold', gold, 4);
  readings.forEach((reading, row) => {
    const top = 9 + row * (tall + 9);
    if (two) out.append(svg('text', {x: -1, y: top + tall - 3}, 'AB'[row]));
    (reading.scores || []).forEach((score, k) => {
      const x = left + k * pitch;
      out.append(svg('rect', {class: 'cell', x, y: top, width: wide, height: tall, rx: 1.5}));
      if (!has(score)) return;
      const t = lean(reading.scale, score);
      const filled = 2 + (t + 1) * (tall - 2) / 2;
      out.append(paint(svg('rect', {class: 'fill', x, y: top + tall - filled, width: wide, height: filled, rx: 1.5}), t));
    });
    if (reading.predicted >= 0) mark(row ? 'rival' : 'predicted', reading.predicted, top + tall + 5);
  });
  return out;
};

const words = (text, attributes) => {
  const node = el('div', {class: 'text', dir: 'auto', ...attributes});
  if (text.length <= LONG) {
    node.textContent = text;
    return node;
  }
  node.textContent = text.slice(0, LONG) + '\u2026';
  const more = el('button', {class: 'all', type: 'button', onclick: (event) => {
    event.stopPropagation();
    node.textContent = text;
  }}, `Show all ${count(text.length)} characters`);
  node.append(el('br'), more);
  return node;
};
const fact = (name, value) => (has(value) && value !== ''
  ? el('span', null, `${name} `, el('b', {class: 'text'}, value)) : null);
