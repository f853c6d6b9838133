// The cards, more of them as one scrolls.
const AT_A_TIME = 24;
let selected = { shown: [], byKind: [], byClass: [] };
let drawn = 0;

function card(image) {
  const made = make("a", "card");
  made.href = hashOf({ ...state, image: String(images.ids[image]) });
  made.dataset.id = String(images.ids[image]);
  const boxes = boxesOf(image);
  const caption = make("span", "caption");
  const name = make("b", "", page.names[image]);
  name.title = page.names[image];
  caption.append(name);
  const counts = new Map();
  for (const { kind } of [...boxes.detections, ...boxes.truths]) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const dots = make("span", "dots");
  for (const [index, name] of KINDS.entries())
    if (counts.has(name) && isError(index)) dots.append(dot(name, counts.get(name)));
  if (!dots.children.length) dots.append(make("span", "soft", "no error"));
  caption.append(dots);
  made.append(pictures(image, boxes), caption);
  made.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab, by its link
    event.preventDefault();
    change({ image: made.dataset.id }, true);
  };
  return made;
}

function dot(kind, count) {
  const made = make("span", "dot " + kind, String(count));
  made.title = `${count} ${kind}`;
  return made;
}

function drawMore() {
  if (drawn === selected.shown.length) return;
  const next = selected.shown.slice(drawn, drawn + AT_A_TIME);
  element("grid").append(...next.map(card));
  drawn += next.length;
}

// Draw at least so many cards, where there are so many.
function drawUntil(count) {
  while (drawn < Math.min(count, selected.shown.length)) drawMore();
}

function drawGrid() {
  const place = element("viewer").open ? drawn : 0; // the grid behind an open picture stays where it is
  element("grid").replaceChildren();
  element("grid").className = state.view;
  drawn = 0;
  drawMore();
  drawUntil(place);
  const some = selected.shown.length;
  element("count").textContent = some === N ? `${amount(N)} images` : `${amount(some)} of ${amount(N)} images`;
  element("reset").hidden = !(state.q || state.kinds.length || state.classes.length);
}

const AHEAD = 1200; // pixels below the window
const atEnd = () => element("more").getBoundingClientRect().top < innerHeight + AHEAD;
new IntersectionObserver(() => atEnd() && drawMore(), { rootMargin: `${AHEAD}px` }).observe(element("more"));
// The end stays in view while a short page grows, which is no news to the first observer.
new ResizeObserver(() => atEnd() && drawMore()).observe(element("grid"));
