"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const pictures = [by("picture-0"), by("picture-1")];
  const buttons = [...document.querySelectorAll("[data-label]")];
  let labels = []; // what was said of each pair, by its place
  let at = 0; // the pair in sight; one past the last where all is done
  let past = []; // places that were in sight before
  let shown = 0; // since when both pictures are in sight
  let seen = false; // whether they are, so that nothing is said of what nobody saw
  let busy = true;

  function say(text, alarm = false) {
    by("said").textContent = text;
    by("said").classList.toggle("alarm", alarm);
  }

  /** The first pair without a label after a place, from the start again past the end; -1 if there is none. */
  function next(place, others) {
    for (let step = 1; step < labels.length + (others ? 0 : 1); step += 1) {
      const found = (place + step) % labels.length;
      if (labels[found] === null) return found;
    }
    return -1;
  }

  function draw() {
    const done = at >= labels.length;
    const kept = labels.filter((label) => label !== null).length;
    by("bar").max = labels.length;
    by("bar").value = kept;
    by("count").textContent = `${kept} of ${labels.length} labelled`;
    by("work").hidden = done;
    by("done").hidden = !done;
    by("skip").disabled = done;
    by("back").disabled = at === 0 && past.length === 0;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(!done && labels[at] === button.dataset.label));
    }
    document.title = done ? "Done" : `${kept} of ${labels.length}: which likeness?`;
  }

  async function show(place, words) {
    busy = true;
    seen = false;
    at = place;
    if (at >= labels.length) {
      draw();
      say(words);
      by("end").focus();
      busy = false;
      return;
    }
    for (const [side, picture] of pictures.entries()) picture.src = `picture/${at}/${side}`;
    try {
      await Promise.all(pictures.map((picture) => picture.decode()));
      seen = true;
      say(`${words} Pair ${at + 1} of ${labels.length}${labels[at] === null ? "" : `: ${labels[at]}`}.`.trim());
    } catch {
      say("A picture cannot be shown: skip the pair, or start paribus annotate again.", true);
    }
    draw();
    shown = performance.now();
    busy = false;
  }

  function go(place, words) {
    past.push(at);
    return show(place < 0 ? labels.length : place, words);
  }

  async function label(name) {
    if (busy || !seen) return;
    busy = true;
    const seconds = (performance.now() - shown) / 1000;
    try {
      const answer = await fetch("label", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ place: at, label: name, seconds }),
        signal: AbortSignal.timeout(30000), // a server that hangs is told like one that is gone
      });
      if (!answer.ok) throw new Error(await answer.text());
    } catch {
      say("Not kept: is the server still there? Start paribus annotate again and open what it prints.", true);
      busy = false;
      return;
    }
    labels[at] = name;
    await go(next(at), `Kept: ${name}.`);
  }

  function skip() {
    if (busy || at >= labels.length) return;
    const place = next(at, true);
    if (place < 0 && labels[at] === null) say("This is the only pair without a label.");
    else go(place, "Skipped.");
  }

  function back() {
    if (busy) return;
    if (past.length > 0) show(past.pop(), "Back.");
    else if (at > 0) show(at - 1, "Back.");
    else say("This is the first pair.");
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const button = buttons[["1", "2", "3", "4"].indexOf(event.key)];
    const act = button ? () => label(button.dataset.label) : { Backspace: back, s: skip, S: skip }[event.key];
    if (!act) return;
    event.preventDefault();
    if (!event.repeat) act(); // a key that is held labels one pair
  });
  for (const button of buttons) button.addEventListener("click", () => label(button.dataset.label));
  by("back").addEventListener("click", back);
  by("skip").addEventListener("click", skip);

  (async () => {
    try {
      labels = (await (await fetch("state")).json()).labels;
    } catch {
      say("The server does not answer: start paribus annotate again and open what it prints.", true);
      return;
    }
    const place = next(-1);
    await show(place < 0 ? labels.length : place, "");
  })();
})();
