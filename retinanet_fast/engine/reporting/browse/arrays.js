// What the page is about: text as json, numbers as base64 of little-endian arrays.
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int32: Int32Array, int64: BigInt64Array };
const element = (id) => document.getElementById(id);

function array(id) {
  const text = atob(element(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const found = new ARRAYS[element(id).dataset.dtype](bytes.buffer);
  element(id).remove();
  return found;
}

const page = JSON.parse(element("page").textContent);
const images = { ids: array("image-ids"), sizes: array("image-sizes"), turns: array("image-turns") };
// Of image k: rows starts[k] to starts[k + 1]; an image's detections by falling score. Boxes are corners in 1/65535 of
// the image's width and height.
const truth = {
  starts: array("truth-starts"),
  boxes: array("truth-boxes"),
  classes: array("truth-classes"),
  crowd: array("truth-crowd"),
};
const found = {
  starts: array("found-starts"),
  boxes: array("found-boxes"),
  classes: array("found-classes"),
  scores: array("found-scores"),
  kinds: array("found-kinds"),
  truths: array("found-truths"), // the truth that the kind refers to, or -1
  ious: array("found-ious"),
};
const UNIT = 65535; // what a score of 1 and an image's side are stored as
const KINDS = page.kinds.map((kind) => kind.name);
const MISSED = KINDS.indexOf("missed");
const IGNORED = KINDS.indexOf("ignored");
const CORRECT = KINDS.indexOf("correct");
// A truth that one of these points to is not missed.
const EXPLAINS = KINDS.map((name) => ["correct", "classification", "localisation"].includes(name));
const isError = (kind) => kind !== CORRECT && kind !== IGNORED;
