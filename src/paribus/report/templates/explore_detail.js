// The dialog: one pair, larger, with what each encoder finds near its pictures; and how all is set going.

const dialog = byId("detail");
const SVG = "http://www.w3.org/2000/svg";

/** A picture of the pair with what is known of it. */
function large(at) {
  const [name, caption, label, key] = data.shown[at];
  const figure = make("figure");
  const image = picture(at, name);
  if (image.tagName === "IMG") {
    image.addEventListener("load", () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 64));
  }
  const told = make("figcaption");
  for (const [css, text] of [["caption", caption], ["label", label], ["key-of", key]]) {
    if (!text) continue;
    const line = make("p", css);
    line.dir = "auto";
    line.append(...(css === "label" ? [make("span", "tag-of", "label "), make("bdi", "", text)] : [text]));
    told.append(line);
  }
  figure.append(image, told);
  return figure;
}

/** A factor's name, a bar and its number. */
function bar(name, value) {
  const row = make("tr");
  const head = make("th", "", name);
  head.scope = "row";
  const svg = document.createElementNS(SVG, "svg");
  for (const [css, width] of [["bar-all", 100], ["bar-of", value]]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", css);
    rect.setAttribute("width", `${Math.max(0, Math.min(100, width))}%`);
    rect.setAttribute("height", "100%");
    svg.append(rect);
  }
  svg.setAttribute("aria-hidden", "true");
  const drawn = make("td", "drawn");
  drawn.append(svg);
  row.append(head, drawn, make("td", "", written(value, 1)));
  return row;
}

/** One picture's nearest in both encoders. */
function nearest(at, side, pair) {
  const found = data.near[at] ?? [[], []];
  const box = make("section");
  const head = make("h4");
  const name = make("bdi", "", data.shown[at][0]);
  head.append(`${side}: `, name);
  box.append(head);
  if (!found[0].length && !found[1].length) {
    box.append(make("p", "absent", "Not recorded."));
    return box;
  }
  found.forEach((list, which) => {
    const others = new Set(found[1 - which].map(([other]) => other));
    const row = make("div", "near-row");
    const label = make("p");
    label.append(who("ab"[which]));
    const strip = make("ul");
    for (const [other, cosine] of list) {
      const item = make("li", others.has(other) ? "shared" : "");
      item.append(picture(other, data.shown[other]?.[0] ?? ""), make("span", "", written(cosine)));
      if (others.has(other)) item.append(make("span", "hidden", "in both encoders"));
      if (other === pair.l || other === pair.r) item.append(make("span", "other-of", "the other"));
      strip.append(item);
    }
    row.append(label, strip);
    box.append(row);
  });
  return box;
}

/** A rank among all pairs, about where a sample gave it; of how many, where there is room. */
function ranked(rank) {
  const all = data.counted ? (data.counted * (data.counted - 1)) / 2 : 0;
  const about = data.exact ? "" : "about ";
  return [about + rank.toLocaleString("en-US"), make("span", "of-all", all ? ` of ${all.toLocaleString("en-US")}` : "")];
}

/** Fill the dialog with a pair. */
function fill(pair) {
  const at = chosen.indexOf(pair);
  byId("where").textContent = at < 0 ? "not among the pairs that the filters leave" : `${at + 1} of ${chosen.length}`;
  byId("before").setAttribute("aria-disabled", String(at <= 0));
  byId("after").setAttribute("aria-disabled", String(at === chosen.length - 1));
  dialog.dataset.alike = pair.w;
  for (const part of byId("detail-h").children) part.hidden = part.dataset.alike !== pair.w;
  dialog.querySelector(".large").replaceChildren(large(pair.l), large(pair.r));
  dialog.querySelectorAll("tr[data-which]").forEach((row, which) => {
    row.cells[1].textContent = written(pair.s[which]);
    row.cells[2].textContent = written(pair.p[which], 1);
    row.cells[3].replaceChildren(...ranked(pair.k[which]));
  });
  dialog.querySelector(".chips").replaceChildren(...chips(pair));
  const bars = dialog.querySelector(".bars");
  const factors = Object.entries(pair.f).sort((one, other) => other[1] - one[1]);
  bars.hidden = factors.length === 0;
  bars.tBodies[0].replaceChildren(...factors.map(([name, value]) => bar(name, value)));
  dialog.querySelector(".nearest").replaceChildren(nearest(pair.l, "Left", pair), nearest(pair.r, "Right", pair));
}

/** Open the dialog, or go on to another pair in it. */
function openPair(pair) {
  state.pair = pair.id;
  fill(pair);
  if (!dialog.open) {
    dialog.showModal();
    byId("detail-h").focus();
  }
  dialog.scrollTop = 0;
  writeAddress();
}

/** Go to the pair before or after. */
function walk(step) {
  const at = chosen.indexOf(byName.get(state.pair));
  const next = at < 0 ? chosen[0] : chosen[at + step];
  if (next) openPair(next);
}

/** The keyboard: arrows walk through pairs, in the dialog and from card to card. */
function onKey(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (dialog.open) {
    walk(step);
    event.preventDefault();
    return;
  }
  const here = event.target.closest?.("#cards > li");
  const next = step > 0 ? here?.nextElementSibling : here?.previousElementSibling;
  if (next) {
    next.querySelector(".open").focus();
    event.preventDefault();
  }
}

/** Show what the address says. */
function follow() {
  readAddress();
  setFilters();
  count = FEW;
  draw();
  const pair = byName.get(state.pair);
  if (pair) {
    reveal(pair);
    openPair(pair);
  } else if (dialog.open) {
    dialog.close();
  }
}

function start() {
  // Names as they are: what the page's parser takes for a line's end or drops would not be found again.
  data.factors.forEach((name, at) => (filters.elements.factor.options[at + 1].value = name));
  filters.hidden = false;
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", takeFilters);
  byId("clear").addEventListener("click", () => {
    Object.assign(state, FIRST);
    setFilters();
    takeFilters();
    filters.elements.q.focus();
  });
  byId("more").addEventListener("click", () => show(count + FEW));
  byId("all").addEventListener("click", () => show(chosen.length));
  gallery.addEventListener("click", (event) => {
    const pair = byName.get(event.target.closest("li.card")?.dataset.id);
    if (pair) openPair(pair);
  });
  byId("before").addEventListener("click", () => walk(-1));
  byId("after").addEventListener("click", () => walk(1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the dialog, not in it
  });
  dialog.addEventListener("close", () => {
    const pair = byName.get(state.pair);
    state.pair = "";
    writeAddress();
    if (pair) reveal(pair)?.focus();
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith(START)) follow();
  });
  const shared = location.hash.startsWith(START);
  follow();
  if (shared) byId("gallery").scrollIntoView();
}

if (filters) start();
