// Solutions: their scores by one scorer, or by two side by side (A and its rival B).
const samples = data.samples;
const GOOD = new Set(['found', 'accepted', 'both_right']);
const UNJUDGED = new Set(['unknown', 'undecided', 'same', 'differ']);
const readingsOf = (s) => (s.rival ? [s, s.rival] : [s]);
const namesOf = (key) => data.facets.find((f) => f.key === key).names;

const deciding = (s) => {
  const scores = s.scores || [];
  if (s.predicted >= 0 && has(scores[s.predicted])) return scores[s.predicted];
  const known = scores.filter(has);
  return known.length ? known.reduce((a, b) => Math.min(a, b)) : null;
};
for (const s of samples) {
  const score = has(s.threshold) ? deciding(s) : null;
  s.confidence = has(score) ? Math.abs(lean(s.scale, score)) : -1;
  if (!s.rival) continue;
  const apart = (s.scores || []).map((a, k) => {
    const b = (s.rival.scores || [])[k];
    return has(a) && has(b) ? Math.abs(lean(s.scale, a) - lean(s.rival.scale, b)) / 2 : -1;
  });
  s.gap = apart.reduce((a, b) => Math.max(a, b), -1);
}

const truthOf = (value) => {
  if (!has(value)) return ['no label', ''];
  if (value === 1) return ['\u2713 right', ''];
  if (value === 0) return ['\u2717 wrong', 'bad'];
  return [`truth ${show(value, 2)}`, value < 0.5 ? 'bad' : ''];
};
const stepRow = (s, text, k) => {
  const two = Boolean(s.rival);
  const score = (s.scores || [])[k];
  const marks = [];
  const note = (which, words) => marks.push(el('span', null, symbol(which), ` first wrong step (${words})`));
  if (s.gold === k) note('gold', 'truth');
  if (s.predicted === k) note('predicted', two ? 'A' : 'model');
  if (two && s.rival.predicted === k) note('rival', 'B');
  const [label, kind] = truthOf((s.truth || [])[k]);
  const classes = ['step'];
  if (two) classes.push('two');
  if (s.gold === k) classes.push('isgold');
  if (s.predicted === k) classes.push('ispredicted');
  if (two && s.rival.predicted === k) classes.push('isrival');
  if (text.length <= 14 && !text.includes('\n')) classes.push('short');
  const scores = two
    ? readingsOf(s).map((r, i) => chip(r.scale, (r.scores || [])[k], `${'AB'[i]}: `))
    : [el('span', {class: 'score'}, show(score))];
  const row = el('li', {class: classes.join(' ')},
    el('span', {class: 'index', 'aria-label': `step ${k + 1}`}, String(k + 1)), ...scores,
    el('span', {class: `label ${kind}`}, s.truth ? label : ''),
    words(text), marks.length ? el('div', {class: 'marks'}, ...marks) : null);
  if (two) return row;
  if (has(score)) paint(row, lean(s.scale, score));
  else row.classList.add('unscored');
  return row;
};
const named = (k) => (has(k) ? k < 0 ? 'no step' : `step ${k + 1}` : 'undecided');
const verdicts = (s) => el('p', {class: 'outcome'},
  ...readingsOf(s).map((r, k) => el('span', null, symbol(k ? 'rival' : 'predicted'), ` ${'AB'[k]}: `,
    el('b', null, named(r.predicted)), ` (${namesOf('failure')[r.failure]})`)),
  el('span', null, symbol('gold'), ' truth: ', el('b', null, has(s.gold) ? named(s.gold) : 'unknown')));
const solutionDetail = (s) => {
  const question = s.question || '';
  const verdict = {right: ' (right)', wrong: ' (wrong)'}[s.verdict] || ' (not judged)';
  const two = Boolean(s.rival);
  const heads = el('li', {class: `step headings${two ? ' two' : ''}`, 'aria-hidden': 'true'},
    el('span'), ...(two ? [el('span', null, 'A'), el('span', null, 'B')] : [el('span', null, 'score')]),
    el('span', null, s.truth ? 'truth' : ''), el('span', null, 'step'));
  const thresholds = readingsOf(s).map((r) => r.threshold);
  return el('div', {class: 'detail'},
    // A short question stands whole in the row above.
    question.length > 40 || question.includes('\n') ? words(question, {class: 'question text'}) : null,
    two ? verdicts(s) : null,
    el('ol', {class: 'steps'}, heads, ...(s.steps || []).map((text, k) => stepRow(s, text, k))),
    el('p', {class: 'outcome'},
      fact('answer', has(s.answer) ? s.answer + verdict : 'none'),
      fact('reference', s.gold_answer),
      thresholds.some(has) ? fact(two ? 'thresholds' : 'threshold', thresholds.map((t) => show(t)).join(' and ')) : null,
      fact('written by', s.generator),
      el('a', {href: `#solution=${encodeURIComponent(s.id)}`}, `link to ${s.id}`)));
};
const solutionItem = (s) => {
  const two = Boolean(s.rival);
  const kind = two ? s.disagreement : s.failure;
  const tone = UNJUDGED.has(kind) ? ' unknown' : GOOD.has(kind) ? '' : ' miss';
  const where = [s.benchmark, s.split].filter(Boolean).map(plain).join(', ');
  const figure = two ? (s.gap < 0 ? '' : `gap ${s.gap.toFixed(2)}`)
    : s.confidence < 0 ? '' : `confidence ${s.confidence.toFixed(2)}`;
  return [el('span', {class: `failure${tone}`}, namesOf(two ? 'disagreement' : 'failure')[kind]),
    el('span', {class: 'ask', dir: 'auto'}, el('small', null, where), (s.question || '').slice(0, 240)),
    strip(readingsOf(s), s.gold), el('span', {class: 'sure'}, figure)];
};
const ORDERS = {
  given: ['as given', null],
  ...(samples.some((s) => s.rival) ? {apart: ['furthest apart first', (a, b) => (b.gap ?? -1) - (a.gap ?? -1)]} : {}),
  sure: ['most confident first', (a, b) => b.confidence - a.confidence],
  unsure: ['least confident first', (a, b) => a.confidence - b.confidence],
  long: ['most steps first', (a, b) => (b.steps || []).length - (a.steps || []).length],
};
if (samples.length) {
  browse({prefix: '', kind: 'solution', noun: 'solution', items: samples, facets: data.facets,
    always: data.always, orders: ORDERS, item: solutionItem, detail: solutionDetail,
    haystack: (s) => [s.id, s.question, ...(s.steps || []), s.answer, s.gold_answer, s.generator]});
}
