"use strict";
// The browser for rows. Data enters the document as text only: no markup is ever built from it.
(() => {
  const PAGE_SIZE = 20; // rows per page
  const MAX_CHARS = 1200; // of a text; a button shows the rest
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const words = data("words");
  const scoreNames = data("score-names");
  const asWords = (key) => words[key] || key.replaceAll("_", " ");
  const formatScore = (value) => (value === null ? "–" : value.toFixed(2).replace("-", "−"));

  const choice = (answer) => `${answer.letter || "no letter"} ${answer.right ? "right" : "wrong"}`;

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

  function scoreList(names, scores) {
    const list = make("dl", { class: "scores" });
    scores.forEach((value, position) => {
      const name = names[position];
      const meter = make("meter", { min: 0, max: 1, value: value === null ? 0 : value, "aria-hidden": "true" });
      list.append(make("dt", {}, asWords(name)), make("dd", {}, meter), make("dd", {}, formatScore(value)));
    });
    return list;
  }

  function answerSection(answer, names) {
    const title = answer.role ? `${answer.name}: ${answer.role}` : answer.name;
    const measured = "letter" in answer ? make("p", { class: "letter" }, choice(answer)) : scoreList(names, answer.scores);
    return make("section", { class: `side ${answer.role}` }, make("h3", {}, title), ...paragraph(answer.text),
      measured, make("p", { class: "notes" }, answer.notes.join(" · ")));
  }

  function textSection(title, text, style) {
    return make("section", { class: `side ${style}` }, make("h3", {}, title), ...paragraph(text));
  }

  function rowDetails(row, names) {
    const box = make("div", { class: "row-details" });
    box.append(make("h3", {}, "question"), ...paragraph(row.question));
    const reference = row.reference_role ? `reference: ${row.reference_role}` : "reference";
    box.append(make("h3", {}, row.gold ? `${reference}, right is ${row.gold}` : reference), ...paragraph(row.reference));
    if (row.outcome && row.outcome !== "pair") {
      box.append(make("h3", {}, "no pair"), make("p", { class: "text" }, asWords(row.outcome)));
    }
    box.append(make("div", { class: "sides" }, ...row.answers.map((answer) => answerSection(answer, names))));
    if ("chosen" in row) {
      box.append(make("div", { class: "sides" }, textSection("labelled better", row.chosen, "chosen"),
        textSection("labelled worse", row.rejected, "rejected")));
    }
    const link = make("a", { href: `#${new URLSearchParams({ row: row.id })}` }, "link to this row");
    box.append(make("p", { class: "notes" }, `${[row.id, ...(row.groups || [row.kind])].filter(Boolean).join(" · ")} · `, link));
    return box;
  }

  function label(row) {
    if (row.outcome) return row.outcome === "pair" ? `margin ${formatScore(row.margin)}` : `no pair: ${asWords(row.outcome)}`;
    if (row.gold) return row.answers.map((answer) => `${answer.name} ${choice(answer)}`).join(" · ");
    return row.margin === null ? row.kind : `DPO over SFT ${row.margin > 0 ? "+" : ""}${formatScore(row.margin)}`;
  }

  function entry(row, names) {
    const question = make("span", { class: "question", dir: "auto" }, row.question.slice(0, 300));
    const details = make("details", { class: "row" }, make("summary", {}, question, make("span", { class: "tag" }, label(row))));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(rowDetails(row, names));
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
      && (!query.group || row.groups.includes(query.group))
      && (!query.result || row.results.some((result) => result.startsWith(query.result)))
      && (!query.flag || row.flags.includes(query.flag));
  }

  function browse(panel) {
    const name = panel.dataset.name;
    const names = scoreNames[name];
    const rows = data(panel.dataset.rows);
    for (const row of rows) row.searchText = searchText(row);
    const filters = [...panel.querySelectorAll("[data-filter]")];
    const list = panel.querySelector(".rows");
    let matching = rows;
    let page = 0;

    function show() {
      const pages = Math.max(1, Math.ceil(matching.length / PAGE_SIZE));
      page = Math.min(Math.max(page, 0), pages - 1);
      list.replaceChildren(...matching.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).map((row) => entry(row, names)));
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
      clear: () => set({}),
      download: () => csvFile.download(`medqa-${name}.csv`, csvFile.csv(matching, names.map(asWords))),
    };

    // Set the filters that are named and clear the others.
    function set(query) {
      for (const input of filters) input.value = query[input.dataset.filter] || "";
      filter();
    }

    // Show a row by its id; false if this tab does not have it.
    function open(id) {
      const position = rows.findIndex((row) => row.id === id);
      if (position < 0) return false;
      set({});
      turn(Math.floor(position / PAGE_SIZE));
      const details = list.children[position % PAGE_SIZE];
      details.open = true;
      details.scrollIntoView();
      details.firstElementChild.focus({ preventScroll: true });
      return true;
    }
    for (const input of filters) input.addEventListener("input", filter);
    for (const button of panel.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
    panel.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft") turn(-1);
      if (event.key === "ArrowRight") turn(1);
    });
    show();
    return { set, open };
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
  const browsers = Object.fromEntries([...document.querySelectorAll("[role=tabpanel]")].map((panel) => [panel.dataset.name, browse(panel)]));

  // #row=ID opens a row; #tab=NAME&FILTER=VALUE sets the filters of a tab. Plain anchors are left to the browser.
  function follow() {
    const query = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const show = (name) => select(document.getElementById(`tab-${name}`));
    if ("row" in query) {
      const name = Object.keys(browsers).find((key) => {
        show(key);
        return browsers[key].open(query.row);
      });
      document.getElementById("no-row").hidden = Boolean(name);
    } else if (Object.hasOwn(browsers, query.tab)) {
      show(query.tab);
      browsers[query.tab].set(query);
      document.getElementById("rows").scrollIntoView();
    }
  }
  addEventListener("hashchange", follow);
  // A second click on the same link changes no address, but the filters may have changed.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href*='=']");
    if (link && link.hash === location.hash) follow();
  });
  follow();
})();
