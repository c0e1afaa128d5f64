"use strict";
// Puts sections of the live page together as the server sends them: elements and texts, no markup.
(() => {
  const here = new URLSearchParams(location.search);
  const status = document.getElementById("link");
  const SVG = "http://www.w3.org/2000/svg";
  const ELEMENTS = new Set(
    ("section div p span h2 h3 h4 ul ol li table thead tbody tfoot tr th td br code pre blockquote bdi details summary figure " +
      "figcaption article header strong svg:svg svg:g svg:title svg:rect svg:line svg:path svg:circle svg:text svg:tspan").split(" "),
  );
  const ATTRIBUTES = new Set(
    ("class id role scope colspan tabindex open data-label aria-label d x y x1 y1 x2 y2 cx cy r rx width height viewBox " +
      "text-anchor transform preserveAspectRatio").split(" "),
  );
  const build = ([name, attributes, children]) => {
    if (!ELEMENTS.has(name)) return document.createTextNode("");
    const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (ATTRIBUTES.has(key)) made.setAttribute(key, value);
    for (const child of children) made.append(typeof child === "string" ? child : build(child));
    return made;
  };
  const folds = (section) => [...section.querySelectorAll("details")];
  const title = (fold) => fold.querySelector("summary").textContent;

  const replace = (name, tree) => {
    const old = document.getElementById(name);
    document.querySelector(`nav a[href="#${name}"]`).parentElement.hidden = tree === null;
    if (tree === null) {
      old.hidden = true;
      old.replaceChildren();
      return;
    }
    const made = build(tree);
    const state = new Map(folds(old).map((fold, number) => [`${number} ${title(fold)}`, fold.open]));
    folds(made).forEach((fold, number) => {
      const known = state.get(`${number} ${title(fold)}`);
      if (known !== undefined) fold.open = known;
    });
    const tops = [...old.querySelectorAll(".scroll, pre")].map((one) => [one.scrollLeft, one.scrollTop]);
    if (name === "builds") for (const row of made.querySelectorAll("tbody tr")) link(row);
    old.replaceChildren(...made.childNodes);
    old.hidden = false;
    [...old.querySelectorAll(".scroll, pre")].forEach((one, number) => {
      if (tops[number]) [one.scrollLeft, one.scrollTop] = tops[number];
    });
    window.dispatchEvent(new Event("scroll")); // the contents mark what is in view now
  };
  // The last cell of a build's row names it: it becomes a link to that build.
  const link = (row) => {
    const cell = row.lastElementChild;
    const address = new URLSearchParams({ token: here.get("token"), build: cell.textContent });
    const anchor = document.createElement("a");
    anchor.setAttribute("href", `?${address}`);
    anchor.textContent = cell.textContent;
    cell.replaceChildren(anchor);
  };

  const waiting = new Map(); // sections that the reader has selected text in
  const selected = (name) => {
    const chosen = getSelection();
    return chosen !== null && !chosen.isCollapsed && document.getElementById(name).contains(chosen.anchorNode);
  };
  const put = (name, tree) => {
    if (selected(name)) waiting.set(name, tree);
    else {
      waiting.delete(name);
      replace(name, tree);
    }
  };
  document.addEventListener("selectionchange", () => {
    for (const [name, tree] of [...waiting]) put(name, tree);
  });

  let source = null;
  const connect = () => {
    const asked = new URLSearchParams({ token: here.get("token") ?? "", build: here.get("build") ?? "" });
    source = new EventSource(`changes?${asked}`);
    source.addEventListener("open", () => (status.textContent = "Live: the page follows the files of the store."));
    source.addEventListener("error", () => (status.textContent = "No connection: factory watch has ended, or is out of reach. Trying again."));
    source.addEventListener("section", (event) => {
      const space = event.data.indexOf(" ");
      put(JSON.parse(event.data.slice(0, space)), JSON.parse(event.data.slice(space + 1)));
    });
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
      status.textContent = "Paused while nobody looks.";
    } else if (source === null) connect();
  });
  if (!document.hidden) connect();
})();
