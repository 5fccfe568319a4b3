"use strict";
// Tables of class "sortable" are sorted by a click on a title; every table can be saved as CSV.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const save = document.createElement("button");
  save.textContent = "save as CSV";
  save.className = "save";
  save.addEventListener("click", () => {
    const quoted = (text) => '"' + text.trim().replace(/\s+/g, " ").replace(/"/g, '""') + '"';
    const lines = [...table.rows].map((row) => [...row.cells].map((c) => quoted(c.dataset.v ?? c.textContent)).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = table.dataset.name + ".csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  table.parentElement.after(save);
  if (!table.classList.contains("sortable")) continue;
  [...table.tHead.rows[0].cells].forEach((title, column) => {
    title.tabIndex = 0;
    const sort = () => {
      const down = title.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
      };
      const order = (a, b) => (typeof a === "number" && typeof b === "number" ? b - a : String(a).localeCompare(String(b)));
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort((a, b) => (down ? 1 : -1) * order(a[0], b[0]));
      body.append(...rows.map((pair) => pair[1]));
    };
    title.addEventListener("click", sort);
    title.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
