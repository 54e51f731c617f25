"use strict";
// The gallery: filters, sorting, cards made when they are asked for, and the view kept in the address.
// Texts of others only ever become text nodes and attributes; the page's policy forbids anything else.

const byId = (id) => document.getElementById(id);
const FEW = 24;
const MINUS = "\u2212";

/** An element with a class and a text. */
function make(tag, css = "", text = "") {
  const node = document.createElement(tag);
  if (css) node.className = css;
  if (text) node.textContent = text;
  return node;
}

/** A number as the page's tables write it. */
function written(value, places = 3) {
  const text = value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  return /[1-9]/.test(text) ? text.replace("-", MINUS) : text.replace("-", "");
}

const data = JSON.parse(byId("data").textContent);
const gallery = byId("cards");
const filters = byId("filters");

// Pictures of the first cards are in the page itself, and only there.
for (const image of document.querySelectorAll("img[data-place]")) data.pictures[image.dataset.place] = image.src;

/** A picture's source, or nothing if it is damaged. */
function source(place) {
  const found = data.pictures[place];
  return found && (found.startsWith("data:") ? found : `data:image/webp;base64,${found}`);
}

/** A picture, or a sign that there is none. */
function picture(place, name) {
  if (!source(place)) return make("span", "missing", "picture cannot be shown");
  const image = make("img");
  image.alt = name;
  image.decoding = "async";
  image.src = source(place);
  if (name) image.title = name;
  return image;
}

const turns = { a: 0, b: 0 };
for (const pair of data.pairs) {
  pair.turn = turns[pair.w]++;
  const factors = Object.entries(pair.f);
  pair.top = factors.length ? factors.reduce((best, one) => (one[1] > best[1] ? one : best)) : null;
  const texts = [pair.l, pair.r].flatMap((place) => data.shown[place].slice(1));
  pair.words = [...texts, ...pair.h].join("\n").normalize("NFC").toLowerCase();
}
const byName = new Map(data.pairs.map((pair) => [pair.id, pair]));

const collate = new Intl.Collator("en", { numeric: true }).compare;
const extreme = (one, other) => one.turn - other.turn || collate(one.w, other.w);
/** The factor that a view is about: the chosen one, or the one the pair is most alike in. */
const likeness = (pair) => (state.factor ? pair.f[state.factor] : pair.top?.[1]) ?? -1;
const ORDERS = {
  "": extreme,
  "a-high": (one, other) => other.s[0] - one.s[0],
  "a-low": (one, other) => one.s[0] - other.s[0],
  "b-high": (one, other) => other.s[1] - one.s[1],
  "b-low": (one, other) => one.s[1] - other.s[1],
  gap: (one, other) => Math.abs(other.p[0] - other.p[1]) - Math.abs(one.p[0] - one.p[1]),
  factor: (one, other) => likeness(other) - likeness(one),
  name: (one, other) => collate(data.shown[one.l][0], data.shown[other.l][0]),
};

// The view: what the filters say and which pair is open; the address has all that is not as at first.
const FIRST = { only: "", factor: "", least: "0", amin: "", amax: "", bmin: "", bmax: "", q: "", sort: "", pair: "" };
const NUMBERS = ["least", "amin", "amax", "bmin", "bmax"];
const START = "#gallery?";
const state = { ...FIRST };
let chosen = [];
let count = FEW;
let later = 0;

/** Take the view from the address; what it does not know is as at first. */
function readAddress() {
  const given = new URLSearchParams(location.hash.startsWith(START) ? location.hash.slice(START.length) : "");
  for (const name of Object.keys(FIRST)) state[name] = given.get(name) ?? FIRST[name];
  for (const name of NUMBERS) if (!Number.isFinite(Number(state[name]))) state[name] = FIRST[name];
  if (!Object.hasOwn(ORDERS, state.sort)) state.sort = "";
  if (!byName.has(state.pair)) state.pair = "";
}

/** Put the view into the address, without a step in the browser's history. */
function writeAddress() {
  const kept = Object.entries(state).filter(([name, value]) => value !== FIRST[name]);
  const hash = kept.length ? START + new URLSearchParams(kept) : location.hash.startsWith(START) ? "#gallery" : "";
  if (!hash || hash === location.hash) return;
  try {
    history.replaceState(null, "", hash);
  } catch {
    // a frame without an origin has no history of its own: the view is not kept, and all else works
  }
}

/** A bound of the filters; what is no number bounds nothing. */
function bound(text, otherwise) {
  const value = text.trim() === "" ? NaN : Number(text);
  return Number.isNaN(value) ? otherwise : value;
}

/** The pairs of this view, in its order. */
function choose() {
  const words = state.q.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
  const least = bound(state.least, 0);
  const low = [bound(state.amin, -Infinity), bound(state.bmin, -Infinity)];
  const high = [bound(state.amax, Infinity), bound(state.bmax, Infinity)];
  return data.pairs
    .filter(
      (pair) =>
        (!state.only || pair.w === state.only) &&
        (!state.factor || pair.top?.[0] === state.factor) &&
        (least <= 0 || (pair.top?.[1] ?? -1) >= least) &&
        pair.s.every((value, at) => value >= low[at] && value <= high[at]) &&
        words.every((word) => pair.words.includes(word)),
    )
    .sort((one, other) => ORDERS[state.sort](one, other) || extreme(one, other));
}

const made = new Map();

/** A pair's card; made once. */
function card(pair) {
  if (made.has(pair.id)) return made.get(pair.id);
  const node = byId("card").content.firstElementChild.cloneNode(true);
  node.dataset.id = pair.id;
  node.dataset.alike = pair.w;
  const names = [pair.l, pair.r].map((place) => data.shown[place][0]);
  node.querySelector(".alike").replaceChildren(who(pair.w));
  node.querySelectorAll("figure").forEach((figure, side) => {
    figure.firstElementChild.replaceWith(picture([pair.l, pair.r][side], ""));
    figure.querySelector("figcaption").textContent = names[side];
  });
  place(node.querySelector(".track-figure"), pair);
  node.querySelectorAll("tbody tr").forEach((row, at) => {
    row.cells[1].textContent = written(pair.s[at]);
    row.cells[2].textContent = written(pair.p[at], 1);
  });
  node.querySelector(".chips").replaceChildren(...chips(pair));
  const open = make("button", "open");
  open.type = "button";
  const said = names.map((name) => (name.length > 80 ? `${name.slice(0, 79)}\u2026` : name)).join(" and ");
  open.setAttribute("aria-label", `Look closer: ${said}, alike only in ${data.names[pair.w === "a" ? 0 : 1]}`);
  open.setAttribute("aria-haspopup", "dialog");
  node.append(open);
  made.set(pair.id, node);
  return node;
}

/** An encoder's sign and name. */
function who(which) {
  return byId(`who-${which}`).content.cloneNode(true);
}

/** Move the signs on a card's line to where the pair lies. */
function place(figure, pair) {
  const ids = ["title", "desc"].map((part) => `${pair.id}-${part}`);
  [...figure.querySelectorAll("title, desc")].forEach((node, at) => (node.id = ids[at]));
  figure.setAttribute("aria-labelledby", ids.join(" "));
  figure.querySelector("desc").textContent = data.names.map((name, at) => `${name}: ${pair.p[at].toFixed(1)}`).join("; ");
  pair.p.forEach((value, at) => figure.querySelector(`.c${at}`).setAttribute("x", `${value}%`));
}

/** What the two pictures share, and what they are most alike in. */
function chips(pair) {
  const said = pair.h.map((name) => `same ${name}`);
  if (pair.top) said.push(`alike in ${pair.top[0]} ${pair.top[1].toFixed(0)}`);
  return said.map((text) => make("li", "", text));
}

/** Show the view. */
function draw() {
  chosen = choose();
  const shown = chosen.slice(0, count);
  gallery.replaceChildren(...shown.map(card));
  const all = data.pairs.length;
  const matching = chosen.length === all ? `${all} pairs` : `${chosen.length} of ${all} pairs`;
  const part = shown.length < chosen.length ? `; the first ${shown.length} are shown` : "";
  byId("count").textContent = `${matching}${part}`;
  byId("nothing").hidden = chosen.length > 0;
  const left = chosen.length - shown.length;
  byId("more").parentElement.hidden = left === 0;
  byId("more").textContent = `Show ${Math.min(FEW, left)} more`;
  byId("all").textContent = `Show all ${chosen.length}`;
  byId("all").hidden = left <= FEW;
  byId("clear").disabled = Object.keys(FIRST).every((name) => name === "pair" || state[name] === FIRST[name]);
}

/** Set a field; a group of choices takes no empty text as its value. */
function set(field, value) {
  if (field instanceof RadioNodeList) for (const choice of field) choice.checked = choice.value === value;
  else field.value = value;
}

/** Set the filters to what the view says. */
function setFilters() {
  for (const name of Object.keys(FIRST)) {
    const field = filters.elements[name];
    if (!field) continue;
    set(field, state[name]);
    if (field.value === state[name]) continue;
    state[name] = FIRST[name]; // there is no such choice
    set(field, state[name]);
  }
  tellLeast();
}

function tellLeast() {
  const output = byId("at-least");
  if (output) output.textContent = bound(state.least, 0) > 0 ? `percentile ${state.least} or more` : "any";
}

/** Take the view from the filters. */
function takeFilters() {
  for (const name of Object.keys(FIRST)) if (filters.elements[name]) state[name] = filters.elements[name].value;
  tellLeast();
  count = FEW;
  draw();
  clearTimeout(later); // browsers refuse addresses that change with every step of a slider
  later = setTimeout(writeAddress, 150);
}

/** Show more cards, and go on at the first new one. */
function show(more) {
  const first = count;
  count = more;
  draw();
  gallery.children[first]?.querySelector(".open").focus();
}

/** A pair's button, made visible if need be. */
function reveal(pair) {
  const at = chosen.indexOf(pair);
  if (at >= count) {
    count = Math.ceil((at + 1) / FEW) * FEW;
    draw();
  }
  return at < 0 ? null : made.get(pair.id).querySelector(".open");
}
