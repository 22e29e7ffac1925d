"use strict";
// Three things: a switch of colours, room for the links when one of them is followed, and
// tables that sort. The page reads without it.
(() => {
  const root = document.documentElement;
  const said = document.getElementById("said");

  const themes = { "": "as the system", light: "light", dark: "dark" };
  const theme = document.getElementById("theme");
  const remembered = {
    // A page of a file may have no storage.
    get() { try { return localStorage.getItem("mtkd-theme") || ""; } catch { return ""; } },
    set(name) { try { localStorage.setItem("mtkd-theme", name); } catch { /* forgotten */ } },
  };
  const wear = (name) => {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    theme.textContent = "colours: " + themes[name];
  };
  wear(remembered.get() in themes ? remembered.get() : "");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const names = Object.keys(themes);
    const next = names[(names.indexOf(root.dataset.theme || "") + 1) % names.length];
    wear(next);
    remembered.set(next);
  });

  // The links stay at the top, in as many rows as fit: a title comes to stand below them.
  const links = document.querySelector("nav");
  const leaveRoom = () => { root.style.scrollPaddingTop = links.offsetHeight + 12 + "px"; };
  leaveRoom();
  window.addEventListener("resize", leaveRoom);

  // "-2.0%", "3.500 (gpt2)" and "1,234" are numbers, "4 min 10 s" a time, "–" is nothing.
  const seconds = { s: 1, min: 60, h: 3600, d: 86400 };
  const number = (text) => {
    if (/^\d+ (s|min|h|d)\b/.test(text)) {
      return [...text.matchAll(/(\d+) (s|min|h|d)\b/g)]
        .reduce((sum, [, count, unit]) => sum + count * seconds[unit], 0);
    }
    const found = text.replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i);
    return found ? Number(found[0]) : NaN;
  };
  const nothing = (text) => text === "–" || text === "";
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  };

  const sort = (table, column, order) => {
    const body = table.tBodies[0];
    const text = (row) => row.cells[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => {
      if (order === "none") return a.dataset.place - b.dataset.place;
      const [x, y] = [text(a), text(b)];
      if (nothing(x) || nothing(y)) return nothing(x) - nothing(y);
      return order === "ascending" ? compare(x, y) : compare(y, x);
    });
    body.append(...rows);
  };

  const next = { none: "ascending", ascending: "descending", descending: "none" };
  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const order = next[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", order);
        sort(table, column, order);
        said.textContent = order === "none"
          ? "in the order of the run"
          : "sorted by " + button.textContent + ", " + order;
      });
    });
  }
})();
