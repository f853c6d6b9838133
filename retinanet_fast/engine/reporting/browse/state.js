// What is looked at. The address holds it, so that a link shows the same.
const DEFAULTS = { score: page.score, sort: "worst", q: "", view: "beside", hide: [], theme: "", image: "" };
const classOfId = new Map(page.categories.map(([id], index) => [String(id), index]));
let state = readHash();

function readHash() {
  const words = new URLSearchParams(location.hash.slice(1));
  const list = (name) => (words.get(name) ?? "").split(",").filter(Boolean);
  const score = words.has("score") ? Number(words.get("score")) : DEFAULTS.score;
  return {
    score: score >= 0 && score <= 1 ? score : DEFAULTS.score,
    kinds: list("kind").map((name) => KINDS.indexOf(name)).filter((kind) => kind >= 0),
    classes: list("class").map((id) => classOfId.get(id)).filter((index) => index !== undefined),
    sort: words.get("sort") in ORDERS ? words.get("sort") : DEFAULTS.sort,
    q: words.get("q") ?? "",
    view: words.get("view") === "overlay" ? "overlay" : "beside",
    hide: list("hide"),
    theme: words.get("theme") ?? "",
    image: words.get("image") ?? "",
  };
}

function hashOf(given) {
  const words = new URLSearchParams();
  const put = (name, value, without) => String(value) !== String(without) && words.set(name, value);
  put("score", given.score, DEFAULTS.score);
  put("kind", given.kinds.map((kind) => KINDS[kind]).join(), "");
  put("class", given.classes.map((index) => page.categories[index][0]).join(), "");
  for (const name of ["sort", "q", "view", "hide", "theme", "image"]) put(name, given[name], DEFAULTS[name]);
  return "#" + words.toString().replaceAll("%2C", ",");
}

// Change what is looked at; `step` makes it an entry of the browser's history. The address is otherwise written a moment
// later, since browsers refuse to write it at each step of a slider.
let unwritten = 0;
function change(values, step = false) {
  const write = () => history.replaceState(null, "", hashOf(state));
  clearTimeout(unwritten);
  if (step) write();
  follow({ ...state, ...values });
  if (step) history.pushState(null, "", hashOf(state));
  else unwritten = setTimeout(write, 100);
}

const toggled = (list, value) => (list.includes(value) ? list.filter((other) => other !== value) : [...list, value]);
addEventListener("hashchange", () => follow(readHash())); // the browser's history and typed addresses
