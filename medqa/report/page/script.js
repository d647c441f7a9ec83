"use strict";
// The browser for rows. What comes from data enters the document as text alone: no markup is ever built from it.
(() => {
  const SHOWN = 20; // rows at a time
  const LONG = 1200; // characters of a text before it has to be asked for
  const words = JSON.parse(document.getElementById("words").textContent);
  const spoken = (key) => words[key] || key.replaceAll("_", " ");
  const figure = (value) => (value === null ? "–" : value.toFixed(2).replace("-", "−"));

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function block(text) {
    const shown = make("p", { class: "text", dir: "auto" }, text.slice(0, LONG) || "(empty)");
    if (text.length <= LONG) return [shown];
    shown.append("…");
    const more = make("button", { type: "button", class: "more" }, `show all ${text.length.toLocaleString("en")} characters`);
    more.addEventListener("click", () => {
      shown.textContent = text;
      more.remove();
    });
    return [shown, more];
  }

  function scores(given) {
    const list = make("dl", { class: "scores" });
    for (const [name, value] of Object.entries(given)) {
      const meter = make("meter", { min: 0, max: 1, value: value === null ? 0 : value, "aria-hidden": "true" });
      list.append(make("dt", {}, spoken(name)), make("dd", {}, meter), make("dd", {}, figure(value)));
    }
    return list;
  }

  function side(answer) {
    const title = answer.role ? `${answer.name}: ${answer.role}` : answer.name;
    return make("section", { class: `side ${answer.role}` }, make("h3", {}, title), ...block(answer.text),
      scores(answer.scores), make("p", { class: "notes" }, answer.notes.join(" · ")));
  }

  function plainSide(title, text, style) {
    return make("section", { class: `side ${style}` }, make("h3", {}, title), ...block(text));
  }

  function inside(row) {
    const box = make("div", { class: "inside" });
    box.append(make("h3", {}, "question"), ...block(row.question));
    box.append(make("h3", {}, row.gold ? `reference, right is ${row.gold}` : "reference"), ...block(row.reference));
    if (row.outcome && row.outcome !== "pair") {
      box.append(make("h3", {}, "no pair"), make("p", { class: "text" }, spoken(row.outcome)));
    }
    box.append(make("div", { class: "sides" }, ...row.answers.map(side)));
    if ("chosen" in row) {
      box.append(make("div", { class: "sides" }, plainSide("people chose", row.chosen, "chosen"),
        plainSide("people rejected", row.rejected, "rejected")));
    }
    box.append(make("p", { class: "notes" }, `${row.id}${row.kind ? ` · ${row.kind}` : ""}`));
    return box;
  }

  function label(row) {
    if (row.outcome) return row.outcome === "pair" ? `margin ${figure(row.margin)}` : `no pair: ${spoken(row.outcome)}`;
    return row.margin === null ? row.kind : `DPO − SFT ${row.margin > 0 ? "+" : ""}${figure(row.margin)}`;
  }

  function entry(row) {
    const asks = make("span", { class: "asks", dir: "auto" }, row.question.slice(0, 300));
    const details = make("details", { class: "row" }, make("summary", {}, asks, make("span", { class: "tag" }, label(row))));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(inside(row));
    });
    return details;
  }

  function haystack(row) {
    const texts = [row.id, row.question, row.reference, row.chosen, row.rejected, ...row.answers.map((one) => one.text)];
    return texts.filter(Boolean).join("\n").toLowerCase();
  }

  function matches(row, wanted) {
    return row.hay.includes(wanted.text.trim().toLowerCase())
      && (wanted.margin === "" || (row.margin !== null && Math.abs(row.margin) >= Number(wanted.margin)))
      && (!wanted.kind || row.kind === wanted.kind)
      && (!wanted.outcome || row.outcome === wanted.outcome)
      && (!wanted.flag || row.flags.includes(wanted.flag));
  }

  function browse(panel) {
    const rows = JSON.parse(document.getElementById(panel.dataset.rows).textContent);
    for (const row of rows) row.hay = haystack(row);
    const filters = [...panel.querySelectorAll("[data-filter]")];
    const list = panel.querySelector(".rows");
    let found = rows;
    let page = 0;

    function show() {
      const pages = Math.max(1, Math.ceil(found.length / SHOWN));
      page = Math.min(Math.max(page, 0), pages - 1);
      list.replaceChildren(...found.slice(page * SHOWN, (page + 1) * SHOWN).map(entry));
      panel.querySelector(".count").textContent = `${found.length} of ${rows.length} rows match`;
      panel.querySelector(".page").textContent = `page ${page + 1} of ${pages}`;
      // Not disabled: a button that is loses the focus, and whoever turns pages by keyboard their place.
      const ends = { previous: page === 0, next: page === pages - 1 };
      for (const button of panel.querySelectorAll(".turn [data-do]")) {
        button.setAttribute("aria-disabled", ends[button.dataset.do]);
      }
    }

    function filter() {
      const wanted = { outcome: "", ...Object.fromEntries(filters.map((one) => [one.dataset.filter, one.value])) };
      found = rows.filter((row) => matches(row, wanted));
      page = 0;
      show();
    }

    function turn(by) {
      page += by;
      show();
    }

    const acts = {
      previous: () => turn(-1),
      next: () => turn(1),
      clear: () => {
        for (const one of filters) one.value = "";
        filter();
      },
    };
    for (const one of filters) one.addEventListener("input", filter);
    for (const button of panel.querySelectorAll("[data-do]")) button.addEventListener("click", acts[button.dataset.do]);
    panel.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft") turn(-1);
      if (event.key === "ArrowRight") turn(1);
    });
    show();
  }

  const tabs = [...document.querySelectorAll("[role=tab]")];
  function select(chosen) {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
  }
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      const next = tabs[(place + by + tabs.length) % tabs.length];
      select(next);
      next.focus();
    });
  });
  document.querySelectorAll("[role=tabpanel]").forEach(browse);
})();
