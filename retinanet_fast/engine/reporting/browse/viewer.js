// One picture, large, with a table of its objects.
const indexOfId = new Map(Array.from(images.ids, (id, index) => [String(id), index]));
let zoom = 1;
let seen = -1;

function drawViewer() {
  const image = indexOfId.get(state.image) ?? -1;
  if (image < 0) {
    if (element("viewer").open) element("viewer").close();
    return;
  }
  if (image !== seen) zoom = 1;
  seen = image;
  if (!element("viewer").open) element("viewer").showModal();
  const boxes = boxesOf(image);
  const [width, height] = images.sizes.subarray(2 * image, 2 * image + 2);
  drawStage(pictures(image, boxes, "eager"), width / height);
  const place = selected.shown.indexOf(image);
  element("place").textContent = place < 0 ? "not in this filter" : `${place + 1} of ${selected.shown.length}`;
  element("name").textContent = page.names[image];
  const counts = `${boxes.truths.length} annotated, ${boxes.detections.length} detected from ${state.score.toFixed(2)}`;
  element("about").textContent = `image ${images.ids[image]}, ${width} × ${height}: ${counts}`;
  drawObjects(boxes);
}

// Two pictures are one above the other where they are larger so.
function drawStage(made, ratio) {
  const stage = element("stage");
  stage.replaceChildren(made);
  stage.style.setProperty("--zoom", zoom);
  const larger = innerWidth <= 900 || ratio > stage.clientWidth / stage.clientHeight;
  made.classList.toggle("stacked", state.view === "beside" && larger);
}

// Errors first, each group as it came: detections by falling score, then what was missed.
function drawObjects({ truths, detections }) {
  const table = make("table");
  const head = make("tr");
  for (const title of ["kind", "class"]) head.append(make("th", "", title));
  for (const title of ["score", "IoU"]) head.append(make("th", "n", title));
  table.append(head);
  const missed = truths.filter(({ kind }) => kind === "missed");
  const wrong = detections.filter(({ kind }) => isError(KINDS.indexOf(kind)));
  const right = detections.filter(({ kind }) => !isError(KINDS.indexOf(kind)));
  for (const one of [...wrong, ...missed, ...right]) table.append(objectRow(one, truths));
  element("objects").replaceChildren(table);
}

function objectRow({ row, kind, made }, truths) {
  const line = make("tr", kind);
  const detection = kind !== "missed";
  const own = page.categories[(detection ? found : truth).classes[row]][1];
  const target = detection ? found.truths[row] : -1;
  const differs = target >= 0 && truth.classes[target] !== found.classes[row];
  const named = differs ? `${own}, not ${page.categories[truth.classes[target]][1]}` : own;
  line.append(make("td", "kind-name", kind), make("td", "", named));
  line.append(make("td", "n", detection ? (found.scores[row] / UNIT).toFixed(2) : ""));
  line.append(make("td", "n", detection && target >= 0 ? (found.ious[row] / 255).toFixed(2) : ""));
  const partners = [made, line, ...truths.filter((one) => one.row === target).map((one) => one.made)];
  for (const one of [made, line]) {
    one.onpointerenter = () => partners.forEach((partner) => partner.classList.add("hot"));
    one.onpointerleave = () => partners.forEach((partner) => partner.classList.remove("hot"));
  }
  return line;
}

function move(step) {
  const place = selected.shown.indexOf(seen);
  const next = selected.shown[Math.max(0, Math.min(selected.shown.length - 1, place + step))];
  if (next !== undefined) change({ image: String(images.ids[next]) });
}

function changeZoom(factor) {
  zoom = factor ? Math.max(0.5, Math.min(12, zoom * factor)) : 1;
  element("stage").style.setProperty("--zoom", zoom);
}

element("viewer").onclose = () => {
  if (state.image) change({ image: "" });
  drawUntil(selected.shown.indexOf(seen) + 1);
  document.querySelector(`.card[data-id="${images.ids[seen]}"]`)?.focus();
};
addEventListener("resize", drawViewer);
element("close").onclick = () => element("viewer").close();
element("previous").onclick = () => move(-1);
element("next").onclick = () => move(1);
