// Keys, and the first drawing.
const turnOff = (part) => change({ hide: toggled(state.hide, part) });
const scored = (step) => change({ score: Math.round(100 * Math.max(0, Math.min(1, state.score + step))) / 100 });
const KEYS = {
  b: () => change({ view: state.view === "beside" ? "overlay" : "beside" }),
  t: () => turnOff("truth"),
  d: () => turnOff("found"),
  l: () => turnOff("labels"),
  "[": () => scored(-0.05),
  "]": () => scored(0.05),
  "+": () => changeZoom(1.25),
  "=": () => changeZoom(1.25),
  "-": () => changeZoom(0.8),
  0: () => changeZoom(0),
  m: changeTheme,
  "?": () => element("help").open || element("help").showModal(),
  "/": () => element("search").focus(),
  ArrowRight: () => go(1),
  ArrowLeft: () => go(-1),
  ArrowDown: () => go(columns()),
  ArrowUp: () => go(-columns()),
};
const columns = () => getComputedStyle(element("grid")).gridTemplateColumns.split(" ").length;

// The next picture: of the viewer where one is open, else of the grid.
function go(step) {
  if (element("viewer").open) return move(Math.sign(step));
  const cards = element("grid").children;
  const place = Array.prototype.indexOf.call(cards, document.activeElement);
  cards[place < 0 ? 0 : Math.max(0, Math.min(cards.length - 1, place + step))]?.focus();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  if (element("help").open || event.target.matches("input[type=search], select")) return;
  if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  event.preventDefault();
  KEYS[event.key]();
});

// Draw again what differs between what was looked at and what is.
function follow(next, all = false) {
  const before = state;
  state = next;
  const differs = (...names) => all || names.some((name) => String(before[name]) !== String(next[name]));
  drawTools();
  if (differs("score", "kinds", "classes", "q", "sort")) {
    selected = select();
    drawKinds();
    drawClasses();
    drawGrid();
  } else if (differs("view")) drawGrid();
  for (const card of element("grid").children) card.href = hashOf({ ...state, image: card.dataset.id });
  drawViewer();
}

follow(state, true);
document.body.dataset.ready = Math.round(performance.now());
