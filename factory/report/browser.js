"use strict";
// Leafs through the answers that the page carries. Every text of theirs is put in as text.
(async () => {
  const section = document.getElementById("answers");
  const part = (name) => section.querySelector(`[data-part="${name}"]`);
  const PAGE = 40;
  const WORDS = JSON.parse(section.dataset.words);
  const MARKS = JSON.parse(section.dataset.marks);

  const unpack = async (id) => {
    const packed = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(whole).text());
  };
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  let index;
  try {
    index = await unpack("answers-index");
  } catch {
    part("notice").textContent =
      "This browser cannot unpack the answers: Chromium from 80, Firefox from 113 and Safari from 16.4 can.";
    return;
  }
  const rows = index.problem.length;
  const firstRow = index.ids.map(() => rows);
  for (let row = rows - 1; row >= 0; row--) firstRow[index.problem[row]] = row;
  const rowsOf = (problem) => {
    const found = [];
    for (let row = firstRow[problem]; index.problem[row] === problem; row++) found.push(row);
    return found;
  };
  const perProblem = new Map(); // most samples of one model and mode, for "2 of 4"
  for (let row = 0; row < rows; row++) {
    const key = `${index.problem[row]}/${index.model[row]}/${index.mode[row]}`;
    perProblem.set(key, (perProblem.get(key) || 0) + 1);
  }
  const which = (row) => {
    const mode = index.modes[index.mode[row]];
    const count = perProblem.get(`${index.problem[row]}/${index.model[row]}/${index.mode[row]}`);
    return count === 1 ? mode : `${mode} ${index.sample[row] + 1} of ${count}`;
  };
  const outcome = (row) => index.outcomes[index.outcome[row]];
  const verdict = (name, words = WORDS[name]) =>
    element("span", { class: `verdict ${name}` }, `${MARKS[name]} ${words}`.trim());

  // Blocks of texts are unpacked when one of their problems is looked at, the last few are kept.
  const blocks = new Map();
  const texts = async (problem) => {
    let block = index.blocks.length - 1;
    while (index.blocks[block] > problem) block--;
    if (!blocks.has(block)) {
      if (blocks.size >= 8) blocks.delete(blocks.keys().next().value);
      blocks.set(block, unpack(`answers-${block}`));
    }
    return (await blocks.get(block))[problem - index.blocks[block]];
  };

  const controls = {};
  for (const control of section.querySelectorAll("select[name]")) controls[control.name] = control;
  const fill = (name, options, chosen) => {
    const shown = options.map(([value, label]) => element("option", { value: String(value) }, label));
    controls[name].replaceChildren(...shown);
    controls[name].value = String(chosen);
  };
  const numbered = (names) => names.map((name, number) => [number, name]);
  const present = [...new Set(index.outcome)].sort((a, b) => a - b);
  const outcomes = present.map((code) => [code, WORDS[index.outcomes[code]]]);
  fill("benchmark", [["", "all"], ...numbered(index.benchmarks)], 0);
  fill("model", [["", "all"], ...numbered(index.models)], index.models.length - 1);
  fill("mode", [["", "all"], ...numbered(index.modes)], "");
  fill("outcome", [["", "any"], ...outcomes, ["lenient", "right by lenient grading only"]], "");
  fill("beside", [["", "none"], ...numbered(index.models)], "");
  fill("other", [["", "any"], ...outcomes], "");

  // Text search: everything is unpacked once, when the first letter is typed.
  const search = part("search");
  let texted = null; // by row: question, thoughts, answer and whole text in small letters
  const needle = () => search.value.trim().toLowerCase();
  const unpackAll = async () => {
    const lines = new Array(rows).fill("");
    for (let problem = 0; problem < index.ids.length; problem++) {
      const [question, reference, answers] = await texts(problem);
      const start = `${index.ids[problem]}\n${question}\n${reference ?? ""}\n`.toLowerCase();
      answers.forEach((one, number) => {
        lines[firstRow[problem] + number] = start + `${one[2]}\n${one[3]}`.toLowerCase();
      });
    }
    texted = lines;
  };

  const correct = index.outcomes.indexOf("correct");
  // The other model's answer of the same mode and sample, else its first to the problem.
  const counterpart = (row, model) => {
    const others = rowsOf(index.problem[row]).filter((other) => index.model[other] === model);
    const same = (other) =>
      index.mode[other] === index.mode[row] && index.sample[other] === index.sample[row];
    return others.find(same) ?? others[0];
  };
  const matches = () => {
    const wanted = Object.fromEntries(
      Object.entries(controls).map(([name, control]) => [name, control.value]),
    );
    const is = (value, column, place) => value === "" || Number(value) === column[place];
    const words = texted === null ? "" : needle();
    const found = [];
    for (let row = 0; row < rows; row++) {
      if (words !== "" && !texted[row].includes(words)) continue;
      if (!is(wanted.benchmark, index.benchmark, index.problem[row])) continue;
      if (!is(wanted.model, index.model, row) || !is(wanted.mode, index.mode, row)) continue;
      if (wanted.outcome === "lenient") {
        if (index.outcome[row] === correct || index.lenient[row] !== correct) continue;
      } else if (!is(wanted.outcome, index.outcome, row)) continue;
      if (wanted.beside !== "" && wanted.other !== "") {
        const other = counterpart(row, Number(wanted.beside));
        if (other === undefined || !is(wanted.other, index.outcome, other)) continue;
      }
      found.push(row);
    }
    return found;
  };

  let found = [];
  let at = 0; // the place in `found` of the answer that is shown
  let asked = 0; // a slow block must not overwrite what was asked for later
  const count = (number) => number.toLocaleString("en");
  const list = part("list");

  const drawList = () => {
    const start = at - (at % PAGE);
    const buttons = found.slice(start, start + PAGE).map((row, number) => {
      const id = element("span", { class: "id" }, index.questions[index.problem[row]]);
      const who = controls.model.value === "" ? `${index.models[index.model[row]]}, ` : "";
      const facts = element("span", { class: "dim" }, `${who}${which(row)}`);
      const button = element("button", { type: "button" }, verdict(outcome(row), ""), id, facts);
      button.setAttribute("aria-label", `${WORDS[outcome(row)]}: ${index.ids[index.problem[row]]}, ${facts.textContent}`);
      button.setAttribute("aria-current", String(start + number === at));
      button.tabIndex = start + number === at ? 0 : -1;
      button.addEventListener("click", () => show(start + number));
      return element("li", {}, button);
    });
    list.replaceChildren(...buttons);
    list.start = start + 1;
    const range = found.length ? `${count(start + 1)} to ${count(Math.min(start + PAGE, found.length))} of ` : "";
    part("count").textContent = `${range}${count(found.length)} answers`;
    part("earlier").disabled = start === 0;
    part("later").disabled = start + PAGE >= found.length;
  };

  const article = (row, problem) => {
    const [reasoning, answer, completion, explanation, lenientAnswer] = problem[2][row - firstRow[index.problem[row]]];
    const header = element(
      "header", {},
      element("span", { class: "who" }, index.models[index.model[row]]),
      verdict(outcome(row)),
      element("span", { class: "dim" }, `${count(index.tokens[row])} tokens`),
    );
    const mine = rowsOf(index.problem[row]).filter((other) => index.model[other] === index.model[row]);
    if (mine.length > 1) {
      const choice = element("select", { "aria-label": `Which answer of ${index.models[index.model[row]]}` });
      choice.append(...mine.map((other) => element("option", { value: String(other) }, `${which(other)}: ${WORDS[outcome(other)]}`)));
      choice.value = String(row);
      choice.addEventListener("change", () => {
        const next = article(Number(choice.value), problem);
        made.replaceWith(next);
        next.querySelector("select").focus();
      });
      header.append(choice);
    }
    const folded = (title, text, kind) =>
      element("details", {}, element("summary", {}, title), element("pre", { class: kind }, text));
    const made = element("article", { class: "sample" }, header);
    if (reasoning !== null) made.append(folded(`Thinking, ${count(reasoning.length)} characters`, reasoning, "thinking"));
    if (answer !== null) {
      made.append(element("p", { class: "answer" }, element("span", { class: "dim" }, "Answer "), element("bdi", {}, answer)));
    }
    if (reasoning === null && answer === null) made.append(element("pre", {}, completion));
    else made.append(folded("Exact text", completion, ""));
    made.append(element("p", { class: "why dim" }, element("bdi", {}, explanation)));
    const lenient = index.outcomes[index.lenient[row]];
    const seen = lenientAnswer === null ? "no answer" : lenientAnswer;
    made.append(element("p", { class: "why dim" }, "Lenient grading sees ", element("bdi", {}, seen), `: ${WORDS[lenient]}`));
    return made;
  };

  const drawDetail = async () => {
    const ask = ++asked;
    const detail = part("detail");
    if (!found.length) {
      detail.replaceChildren(element("p", { class: "dim" }, "No answer is like that."));
      return;
    }
    const row = found[at];
    const problem = await texts(index.problem[row]);
    if (ask !== asked) return;
    const gold = problem[1] === null ? "not to be had here" : problem[1];
    const all = rowsOf(index.problem[row]);
    const others = [...new Set(all.map((other) => index.model[other]))].map((model) => {
      const marks = all.filter((other) => index.model[other] === model).map((other) => MARKS[outcome(other)]);
      const button = element(
        "button", { type: "button", "aria-pressed": String(controls.beside.value === String(model)) },
        index.models[model], " ", element("span", { class: "marks" }, marks.slice(0, 8).join("") + (marks.length > 8 ? "…" : "")),
      );
      button.addEventListener("click", () => {
        controls.beside.value = controls.beside.value === String(model) ? "" : String(model);
        controls.other.value = "";
        refilter(row);
      });
      return button;
    });
    const shown = [row];
    if (controls.beside.value !== "") {
      const other = counterpart(row, Number(controls.beside.value));
      if (other !== undefined) shown.push(other);
    }
    detail.replaceChildren(
      element("h3", {}, index.ids[index.problem[row]], " ", element("span", { class: "dim" }, index.benchmarks[index.benchmark[index.problem[row]]])),
      element("blockquote", {}, element("pre", {}, problem[0])),
      element("p", { class: "answer gold" }, element("span", { class: "dim" }, "Reference "), element("bdi", {}, gold)),
      element("div", { class: shown.length > 1 ? "samples beside" : "samples one" }, ...shown.map((one) => article(one, problem))),
      element("p", { class: "address" }, element("a", { href: `#${address(row)}` }, "Link to this answer")),
      element("p", { class: "others", role: "group", "aria-label": "Put a model's answer beside it" }, element("span", { class: "dim" }, "Beside it: "), ...others),
    );
  };

  const show = async (place, { focus = false } = {}) => {
    at = Math.max(0, Math.min(place, found.length - 1));
    drawList();
    const current = list.querySelector('[aria-current="true"]');
    if (current && focus) current.focus({ preventScroll: true });
    if (current) list.scrollTop += current.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 3;
    await drawDetail();
  };
  // An answer's own link: #a=problem/model/mode/sample, each encoded.
  const address = (row) =>
    `a=${[index.ids[index.problem[row]], index.models[index.model[row]], index.modes[index.mode[row]], index.sample[row]].map((part) => encodeURIComponent(part)).join("/")}`;
  const addresses = new Map();
  const follow = async () => {
    if (!location.hash.startsWith("#a=")) return;
    if (!addresses.size) for (let row = 0; row < rows; row++) addresses.set(address(row), row);
    const row = addresses.get(location.hash.slice(1));
    if (row === undefined) return;
    for (const control of Object.values(controls)) control.value = "";
    controls.model.value = String(index.model[row]);
    search.value = "";
    await refilter(row);
    section.scrollIntoView();
  };
  const refilter = (row) => {
    for (const option of controls.beside.options) {
      option.disabled = option.value !== "" && option.value === controls.model.value;
      if (option.disabled && option.selected) controls.beside.value = "";
    }
    found = matches();
    controls.other.disabled = controls.beside.value === "";
    return show(Math.max(0, found.indexOf(row)));
  };

  for (const control of Object.values(controls)) control.addEventListener("change", () => refilter(found[at]));
  let typed = 0;
  search.addEventListener("input", async () => {
    const mine = ++typed;
    if (texted === null && needle() !== "") await unpackAll();
    if (mine === typed) await refilter(found[at]);
  });
  addEventListener("hashchange", follow);
  part("earlier").addEventListener("click", () => show(at - (at % PAGE) - PAGE));
  part("later").addEventListener("click", () => show(at - (at % PAGE) + PAGE));
  const steps = { ArrowDown: () => at + 1, ArrowUp: () => at - 1, PageDown: () => at + PAGE, PageUp: () => at - PAGE, Home: () => 0, End: () => found.length - 1 };
  list.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(steps[event.key](), { focus: true });
  });

  await refilter();
  part("notice").hidden = true;
  part("browser").hidden = false;
  await follow();
  section.dataset.ready = "yes";
})();
