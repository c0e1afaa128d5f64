"use strict";
// The review queue: one trace at a time, decided by keys or buttons. Every text is put in as text.
(() => {
  const section = document.getElementById("review");
  const token = new URLSearchParams(location.search).get("token") ?? "";
  const viewer = sessionStorage.getItem("viewer") ?? crypto.randomUUID();
  sessionStorage.setItem("viewer", viewer); // a page that is loaded again goes on with its trace
  const REASONS = ["wrong", "unreadable", "language", "format", "unsafe", "other"];
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const button = (words, key, act) => {
    const made = element("button", { type: "button", "data-key": key }, words);
    made.addEventListener("click", act);
    return made;
  };

  const name = element("input", { type: "text", name: "reviewer", maxlength: "200", autocomplete: "off" });
  name.value = section.dataset.reviewer;
  const passes = element("select", { name: "pass" }, element("option", { value: "1" }, "first pass"),
    element("option", { value: "2" }, "second pass, blind"));
  const state = element("p", { class: "dim", "data-part": "state" });
  const said = element("p", { role: "status", "data-part": "said" });
  const card = element("div", { class: "card review", tabindex: "-1", "aria-label": "The trace to decide on", role: "group" });
  section.append(
    element("h2", {}, "Review"),
    element("div", { class: "filters" }, element("label", {}, "Your name ", name), element("label", {}, "Pass ", passes)),
    state, card, said,
  );

  let item = null;
  let mode = "choose";
  const ask = async (address, settings = {}) => {
    const answer = await fetch(address, { ...settings, headers: { "X-Token": token, ...(settings.headers ?? {}) } });
    if (!(answer.headers.get("Content-Type") ?? "").startsWith("application/json")) throw new Error(await answer.text());
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.fault);
    return content;
  };

  const side = (title, thoughts, ending) =>
    element("div", {}, element("h3", {}, title), element("h4", {}, "Thoughts"), element("pre", { tabindex: "0" }, thoughts),
      element("h4", {}, "Answer"), element("pre", { tabindex: "0" }, ending === "" ? "(none)" : ending));

  const show = () => {
    card.replaceChildren();
    mode = "choose";
    if (item === null) {
      card.append(element("p", {}, "Nothing waits in this pass."));
      return;
    }
    const sides = [side(item.original === null ? "Trace" : "Rewritten", item.thoughts, item.ending)];
    if (item.original !== null) sides.unshift(side("Original", item.original, item.original_ending));
    const bar = element("div", { class: "filters", "data-part": "choices" },
      button("Accept (a)", "a", () => decide({ choice: "accept" })),
      button("Reject (r)", "r", reject), button("Skip (s)", "s", () => load(item.trace)));
    if (item.editable) bar.insertBefore(button("Edit (e)", "e", edit), bar.children[1]);
    card.append(
      element("p", { class: "dim" }, `${item.problem}: ${item.outcome}`),
      element("h4", {}, "Question"), element("pre", { tabindex: "0" }, item.question),
      element("div", { class: sides.length > 1 ? "sides" : "" }, ...sides),
      ...item.linter.map((remark) => element("p", { class: "worse" }, `Linter: ${remark}`)), bar,
    );
  };

  const instead = (...children) => card.querySelector("[data-part=choices]").replaceChildren(...children);
  const reject = () => {
    mode = "reject";
    const choices = REASONS.map((reason, at) => button(`${reason} (${at + 1})`, String(at + 1), () => decide({ choice: "reject", reason })));
    instead(element("span", {}, "Why? "), ...choices, button("Back (Esc)", "Escape", show));
    card.focus();
  };
  const edit = () => {
    mode = "edit";
    const box = (words, text, rows) => {
      const area = element("textarea", { rows, spellcheck: "false" });
      area.value = text;
      return [element("label", {}, words, area), area];
    };
    const [first, thoughts] = box("Thoughts", item.thoughts, "12");
    const [second, ending] = box("Answer", item.ending, "3");
    const save = () => decide({ choice: "edit", reasoning: thoughts.value, ending: ending.value });
    card.replaceChildren(element("pre", {}, item.question), first, second,
      element("div", { class: "filters" }, button("Save (Ctrl+Enter)", "save", save), button("Back (Esc)", "Escape", show)));
    thoughts.focus();
  };

  const load = async (after = "") => {
    const asked = new URLSearchParams({ pass: passes.value, reviewer: name.value, viewer, after });
    try {
      const view = await ask(`queue?${asked}`);
      item = view.item;
      state.textContent = `${view.decided} of ${view.traces} traces decided, ${view.waiting} wait for you in this pass, ` +
        `${view.second} for a second pass. ${view.agreement} Decisions: ${view.file}`;
      const had = section.contains(document.activeElement) && document.activeElement.tagName !== "INPUT" && document.activeElement.tagName !== "SELECT";
      show();
      if (had || document.activeElement === document.body) card.focus({ preventScroll: true });
    } catch (fault) {
      said.textContent = `The queue cannot be read: ${fault.message}`;
    }
  };
  let busy = false;
  const decide = async (choice) => {
    if (busy || item === null) return;
    if (name.value.trim() === "") {
      said.textContent = "Write your name first: decisions are kept with it.";
      name.focus();
      return;
    }
    busy = true;
    const trace = item.trace;
    try {
      const body = JSON.stringify({ trace, reviewer: name.value.trim(), review_pass: Number(passes.value), ...choice });
      const answer = await ask("decisions", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      said.textContent = `${answer.said} ${choice.choice}${choice.reason ? `: ${choice.reason}` : ""}`;
      card.focus({ preventScroll: true });
      await load(trace);
    } catch (fault) {
      said.textContent = fault.message;
    } finally {
      busy = false;
    }
  };

  // Keys count where the focus is in the card, and letters not while one writes.
  section.addEventListener("keydown", (event) => {
    if (!card.contains(event.target) && event.target !== card) return;
    if (event.altKey || event.metaKey) return;
    if (mode === "edit" && event.ctrlKey && event.key === "Enter") card.querySelector('[data-key="save"]').click();
    else if (event.key === "Escape" && mode !== "choose") {
      show();
      card.focus();
    } else if (event.ctrlKey || event.target.tagName === "TEXTAREA") return;
    else {
      const wanted = [...card.querySelectorAll("button")].find((button) => button.dataset.key === event.key);
      if (!wanted) return;
      wanted.click();
    }
    event.preventDefault();
  });
  passes.addEventListener("change", () => load());
  name.addEventListener("change", () => load());
  section.hidden = false;
  document.querySelector('nav a[href="#review"]').parentElement.hidden = false;
  load();
})();
