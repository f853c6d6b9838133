// The tools above the pictures and the classes beside them.
function drawKinds() {
  const buttons = page.kinds.map(({ name, meaning }, kind) => {
    const made = make("button", "kind " + name);
    made.append(make("i"), make("span", "", name), make("b", "", amount(selected.byKind[kind])));
    made.title = meaning;
    made.dataset.kind = name;
    made.setAttribute("aria-pressed", state.kinds.includes(kind));
    made.hidden = name === "ignored" && !selected.byKind[kind] && !state.kinds.includes(kind);
    made.onclick = () => change({ kinds: toggled(state.kinds, kind) });
    return made;
  });
  element("kinds").replaceChildren(...buttons);
}

function drawClasses() {
  const wanted = element("class-search").value.trim().toLowerCase();
  const most = selected.byClass.reduce((a, b) => Math.max(a, b), 1);
  const rows = page.categories
    .map(([, name], index) => index)
    .filter((index) => page.categories[index][1].toLowerCase().includes(wanted))
    .sort((a, b) => selected.byClass[b] - selected.byClass[a] || a - b);
  element("class-list").replaceChildren(
    ...rows.map((index) => {
      const made = make("button", "class");
      made.style.setProperty("--share", selected.byClass[index] / most);
      made.append(make("span", "", page.categories[index][1]), make("b", "", amount(selected.byClass[index])));
      made.setAttribute("aria-pressed", state.classes.includes(index));
      made.onclick = () => change({ classes: toggled(state.classes, index) });
      return made;
    }),
  );
  const chosen = state.classes.length;
  element("classes-chosen").textContent = chosen ? `${chosen} chosen` : String(page.categories.length);
}

function drawTools() {
  element("score").value = state.score;
  element("score-shown").textContent = state.score.toFixed(2);
  element("sort").value = state.sort;
  if (document.activeElement !== element("search")) element("search").value = state.q;
  for (const button of element("view").querySelectorAll("button"))
    button.setAttribute("aria-pressed", button.dataset.view === state.view);
  document.documentElement.style.colorScheme = state.theme || "light dark";
  for (const part of ["truth", "found", "labels"])
    document.body.classList.toggle("no-" + part, state.hide.includes(part));
}

function changeTheme() {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  change({ theme: dark ? "light" : "dark" });
}

// A slider tells of each pixel; one drawing per frame is enough.
let waiting = 0;
function soon(values) {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => change(values));
}

element("score").oninput = () => soon({ score: Number(element("score").value) });
element("search").oninput = () => soon({ q: element("search").value });
element("sort").onchange = () => change({ sort: element("sort").value });
element("view").onclick = (event) => event.target.dataset.view && change({ view: event.target.dataset.view });
element("class-search").oninput = drawClasses;
element("reset").onclick = () => change({ q: "", kinds: [], classes: [] });
element("theme").onclick = changeTheme;
element("help-button").onclick = () => element("help").showModal();
element("classes").open = matchMedia("(min-width: 900px)").matches;
for (const { name, meaning } of page.kinds) element("meanings").append(make("dt", "", name), make("dd", "", meaning));
