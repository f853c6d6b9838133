// Which images are shown, in which order, and how many errors of each kind and class there are.
const ORDERS = {
  worst: (a, b) => weights[b] - weights[a] || a - b,
  errors: (a, b) => errors[b] - errors[a] || weights[b] - weights[a] || a - b,
  best: (a, b) => weights[a] - weights[b] || a - b,
  name: (a, b) => (page.names[a] < page.names[b] ? -1 : page.names[a] > page.names[b] ? 1 : a - b),
  order: (a, b) => a - b,
};
const N = page.names.length;
const weights = new Float64Array(N); // of the chosen errors of an image: their scores, and 1 for a missed object
const errors = new Uint32Array(N);
const explained = new Uint8Array(truth.crowd.length); // truths that are not missed at the score

// Calls `tell(kind, class, other class or -1, weight)` for each object of an image from a score on: its detections and
// what they miss.
function objectsOf(image, limit, tell) {
  const [first, end] = [truth.starts[image], truth.starts[image + 1]];
  explained.fill(0, first, end);
  for (let row = found.starts[image]; row < found.starts[image + 1] && found.scores[row] >= limit; row++) {
    const kind = found.kinds[row], target = found.truths[row];
    if (EXPLAINS[kind] && target >= 0) explained[target] = 1;
    tell(kind, found.classes[row], target >= 0 ? truth.classes[target] : -1, found.scores[row] / UNIT);
  }
  for (let row = first; row < end; row++)
    if (!explained[row] && !truth.crowd[row]) tell(MISSED, truth.classes[row], -1, 1);
}

function matcher(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return () => true;
  return (image) => page.names[image].toLowerCase().includes(wanted) || String(images.ids[image]) === wanted;
}

// The chosen sets as masks; none chosen is all.
function mask(chosen, length) {
  const marks = new Uint8Array(length).fill(chosen.length ? 0 : 1);
  for (const index of chosen) marks[index] = 1;
  return marks;
}

const limitOf = (score) => Math.round(score * UNIT);

function select() {
  const limit = limitOf(state.score), searched = matcher(state.q);
  const kindMask = mask(state.kinds, KINDS.length), classMask = mask(state.classes, page.categories.length);
  const byKind = new Uint32Array(KINDS.length), byClass = new Uint32Array(page.categories.length);
  const shown = [];
  weights.fill(0);
  errors.fill(0);
  for (let image = 0; image < N; image++) {
    if (!searched(image)) continue;
    let here = false;
    objectsOf(image, limit, (kind, own, other, weight) => {
      const inClass = classMask[own] || (other >= 0 && classMask[other]);
      if (inClass) byKind[kind]++;
      if (!kindMask[kind]) return;
      if (isError(kind) || state.kinds.length) byClass[own]++;
      if (!inClass) return;
      here = true;
      if (isError(kind)) {
        errors[image]++;
        weights[image] += weight;
      }
    });
    if (here || !(state.kinds.length || state.classes.length)) shown.push(image);
  }
  return { shown: shown.sort(ORDERS[state.sort]), byKind, byClass };
}
