// A picture with its boxes, drawn by the page.
const amount = (number) => number.toLocaleString("en");

function make(tag, names = "", text = "") {
  const made = document.createElement(tag);
  if (names) made.className = names;
  if (text) made.textContent = text; // never as html: names come from files
  return made;
}

function address(image) {
  if (page.thumbnails) return "data:image/jpeg;base64," + page.thumbnails[image];
  return page.folder + page.names[image].toWellFormed().split("/").map(encodeURIComponent).join("/");
}

function box(boxes, row, kind, classes, text) {
  const made = make("i", "box " + kind);
  const [left, top, right, bottom] = boxes.subarray(4 * row, 4 * row + 4);
  const [width, height] = [right - left, bottom - top];
  const place = { left, top, width, height };
  for (const [name, value] of Object.entries(place)) made.style[name] = (100 * value) / UNIT + "%";
  const label = make("span", top < UNIT / 20 ? "label inside" : "label", page.categories[classes[row]][1] + text);
  made.title = kind + ": " + label.textContent;
  made.append(label);
  return made;
}

// The truths' and the detections' boxes of an image from the chosen score on, pale where they are not what is chosen.
function boxesOf(image) {
  const limit = limitOf(state.score);
  const kindMask = mask(state.kinds, KINDS.length), classMask = mask(state.classes, page.categories.length);
  objectsOf(image, limit, () => {}); // marks what is explained
  const truths = [], detections = [], targets = new Set();
  for (let row = found.starts[image]; row < found.starts[image + 1] && found.scores[row] >= limit; row++) {
    const kind = found.kinds[row], target = found.truths[row];
    const made = box(found.boxes, row, KINDS[kind], found.classes, " " + (found.scores[row] / UNIT).toFixed(2));
    const inClass = classMask[found.classes[row]] || (target >= 0 && classMask[truth.classes[target]]);
    const chosen = kindMask[kind] && inClass;
    made.classList.toggle("pale", !chosen);
    if (chosen) targets.add(target);
    detections.push({ row, kind: KINDS[kind], made });
  }
  for (let row = truth.starts[image]; row < truth.starts[image + 1]; row++) {
    const kind = truth.crowd[row] ? "crowd" : explained[row] ? "known" : "missed";
    const made = box(truth.boxes, row, kind, truth.classes, truth.crowd[row] ? " (crowd)" : "");
    const inKind = kind === "missed" ? kindMask[MISSED] : !state.kinds.length;
    made.classList.toggle("pale", !(targets.has(row) || (inKind && classMask[truth.classes[row]])));
    truths.push({ row, kind, made });
  }
  return { truths, detections };
}

function layer(image, className, boxes, loading) {
  const made = make("div", "picture " + className);
  const [width, height] = images.sizes.subarray(2 * image, 2 * image + 2);
  made.style.setProperty("--ratio", width / height);
  const file = make("img");
  file.loading = loading;
  file.alt = page.names[image];
  file.onerror = () => made.append(make("p", "lost", "the browser cannot show " + page.names[image]));
  file.src = address(image);
  turn(file, images.turns[image], width / height);
  made.append(file, ...boxes.map(({ made: drawn }) => drawn).reverse()); // the highest score on top
  return made;
}

// Undo what the browser does of itself by a photo's EXIF, where the boxes are of the pixels as stored.
function turn(file, exif, ratio) {
  if (exif < 2) return;
  const [degrees, mirrored] = [[0, 0], [0, 0], [0, 1], [180, 0], [180, 1], [90, 1], [-90, 0], [-90, 1], [90, 0]][exif];
  const fit = degrees % 180 ? `scale(${ratio}, ${1 / ratio}) ` : "";
  file.style.transform = (mirrored ? "scaleX(-1) " : "") + fit + `rotate(${degrees}deg)`; // the last word first
}

// One picture with all boxes, or two beside each other: truth, detections.
function pictures(image, boxes, loading = "lazy") {
  const made = make("div", "pictures " + state.view);
  const { truths, detections } = boxes;
  if (state.view === "overlay") made.append(layer(image, "truth found", [...detections, ...truths], loading));
  else made.append(layer(image, "truth", truths, loading), layer(image, "found", detections, loading));
  return made;
}
