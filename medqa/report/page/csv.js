"use strict";
// Rows as a CSV file, made in the browser.
const csvFile = (() => {
  // A cell that a spreadsheet would run as a formula gets an apostrophe; numbers are none, whatever their sign.
  function cell(value) {
    if (typeof value === "number") return String(value);
    const text = String(value === null || value === undefined ? "" : value);
    return `"${(/^[=+\-@\t\r]/.test(text) ? "'" + text : text).replaceAll('"', '""')}"`;
  }

  function csvCells(row, names) {
    const cells = { id: row.id, kind: row.kind, groups: (row.groups || []).join("; "), outcome: row.outcome, question: row.question,
      reference: row.reference, right: row.gold, gain: row.margin };
    for (const answer of row.answers) {
      cells[answer.name] = answer.text;
      if (answer.role) cells[`${answer.name}: role`] = answer.role;
      if ("letter" in answer) {
        cells[`${answer.name}: letter`] = answer.letter;
        cells[`${answer.name}: right or wrong`] = answer.right ? "right" : "wrong";
      }
      answer.scores.forEach((value, position) => { cells[`${answer.name}: ${names[position]}`] = value; });
    }
    return cells;
  }

  // Rows as CSV; `names` are those of the scores of an answer.
  function csv(rows, names) {
    const lines = rows.map((row) => csvCells(row, names));
    const columns = [...new Set(lines.flatMap(Object.keys))];
    return [columns, ...lines.map((line) => columns.map((column) => line[column]))]
      .map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
  }

  function download(name, text) {
    // The byte order mark says to Excel that the file is UTF-8.
    const address = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
    Object.assign(document.createElement("a"), { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  return { csv, download };
})();
