"use strict";
// The browser for rows. Data enters the document as text only: no markup is ever built from it.
(() => {
  const PAGE_SIZE = 20; // rows per page
  const MAX_CHARS = 1200; // of a text; a button shows the rest
  const words = JSON.parse(document.getElementById("words").textContent);
  const asWords = (key) => words[key] || key.replaceAll("_", " ");
  const formatScore = (value) => (value === null ? "–" : value.toFixed(2).replace("-", "−"));

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function paragraph(text) {
    const element = make("p", { class: "text", dir: "auto" }, text.slice(0, MAX_CHARS) || "(empty)");
    if (text.length <= MAX_CHARS) return [element];
    element.append("…");
    const more = make("button", { type: "button", class: "more" }, `show all ${text.length.toLocaleString("en")} characters`);
    more.addEventListener("click", () => {
      element.textContent = text;
      more.remove();
    });
    return [element, more];
  }

  function scoreList(scores) {
    const list = make("dl", { class: "scores" });
    for (const [name, value] of Object.entries(scores)) {
      const meter = make("meter", { min: 0, max: 1, value: value === null ? 0 : value, "aria-hidden": "true" });
      list.append(make("dt", {}, asWords(name)), make("dd", {}, meter), make("dd", {}, formatScore(value)));
    }
    return list;
  }

  function answerSection(answer) {
    const title = answer.role ? `${answer.name}: ${answer.role}` : answer.name;
    return make("section", { class: `side ${answer.role}` }, make("h3", {}, title), ...paragraph(answer.text),
      scoreList(answer.scores), make("p", { class: "notes" }, answer.notes.join(" · ")));
  }

  function textSection(title, text, style) {
    return make("section", { class: `side ${style}` }, make("h3", {}, title), ...paragraph(text));
  }

  function rowDetails(row) {
    const box = make("div", { class: "row-details" });
    box.append(make("h3", {}, "question"), ...paragraph(row.question));
    const reference = row.reference_role ? `reference: ${row.reference_role}` : "reference";
    box.append(make("h3", {}, row.gold ? `${reference}, right is ${row.gold}` : reference), ...paragraph(row.reference));
    if (row.outcome && row.outcome !== "pair") {
      box.append(make("h3", {}, "no pair"), make("p", { class: "text" }, asWords(row.outcome)));
    }
    box.append(make("div", { class: "sides" }, ...row.answers.map(answerSection)));
    if ("chosen" in row) {
      box.append(make("div", { class: "sides" }, textSection("labelled better", row.chosen, "chosen"),
        textSection("labelled worse", row.rejected, "rejected")));
    }
    box.append(make("p", { class: "notes" }, [row.id, ...(row.groups || [row.kind])].filter(Boolean).join(" · ")));
    return box;
  }

  function label(row) {
    if (row.outcome) return row.outcome === "pair" ? `margin ${formatScore(row.margin)}` : `no pair: ${asWords(row.outcome)}`;
    return row.margin === null ? row.kind : `DPO − SFT ${row.margin > 0 ? "+" : ""}${formatScore(row.margin)}`;
  }

  function entry(row) {
    const question = make("span", { class: "question", dir: "auto" }, row.question.slice(0, 300));
    const details = make("details", { class: "row" }, make("summary", {}, question, make("span", { class: "tag" }, label(row))));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(rowDetails(row));
    });
    return details;
  }

  function searchText(row) {
    const texts = [row.id, row.question, row.reference, row.chosen, row.rejected, ...(row.groups || []), ...row.answers.map((answer) => answer.text)];
    return texts.filter(Boolean).join("\n").toLowerCase();
  }

  function matches(row, query) {
    return row.searchText.includes(query.text.trim().toLowerCase())
      && (query.margin === "" || (row.margin !== null && Math.abs(row.margin) >= Number(query.margin)))
      && (!query.kind || row.kind === query.kind)
      && (!query.outcome || row.outcome === query.outcome)
      && (!query.flag || row.flags.includes(query.flag));
  }

  function browse(panel) {
    const rows = JSON.parse(document.getElementById(panel.dataset.rows).textContent);
    for (const row of rows) row.searchText = searchText(row);
    const filters = [...panel.querySelectorAll("[data-filter]")];
    const list = panel.querySelector(".rows");
    let matching = rows;
    let page = 0;

    function show() {
      const pages = Math.max(1, Math.ceil(matching.length / PAGE_SIZE));
      page = Math.min(Math.max(page, 0), pages - 1);
      list.replaceChildren(...matching.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).map(entry));
      panel.querySelector(".count").textContent = `${matching.length} of ${rows.length} rows match`;
      panel.querySelector(".page").textContent = `page ${page + 1} of ${pages}`;
      // aria-disabled only: a disabled button loses the focus, which keyboard users need to go on turning pages.
      const ends = { previous: page === 0, next: page === pages - 1 };
      for (const button of panel.querySelectorAll(".turn [data-do]")) {
        button.setAttribute("aria-disabled", ends[button.dataset.do]);
      }
    }

    function filter() {
      const query = { outcome: "", ...Object.fromEntries(filters.map((input) => [input.dataset.filter, input.value])) };
      matching = rows.filter((row) => matches(row, query));
      page = 0;
      show();
    }

    function turn(pages) {
      page += pages;
      show();
    }

    const actions = {
      previous: () => turn(-1),
      next: () => turn(1),
      clear: () => {
        for (const input of filters) input.value = "";
        filter();
      },
    };
    for (const input of filters) input.addEventListener("input", filter);
    for (const button of panel.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
    panel.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft") turn(-1);
      if (event.key === "ArrowRight") turn(1);
    });
    show();
  }

  const tabs = [...document.querySelectorAll("[role=tab]")];
  function select(selected) {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === selected));
      tab.tabIndex = tab === selected ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== selected;
    }
  }
  tabs.forEach((tab, position) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = tabs[(position + step + tabs.length) % tabs.length];
      select(next);
      next.focus();
    });
  });
  document.querySelectorAll("[role=tabpanel]").forEach(browse);
})();
