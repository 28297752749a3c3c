"use strict";
// The tables of a report: filtered, sorted and turned page by page. Texts reach
// the document as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const texts = data.texts;
  const lower = texts.map((s) => s.toLowerCase());
  const pageRows = 50;
  let ranks = null; // place of each text in alphabetical order

  const el = (name, props, ...children) => {
    const e = Object.assign(document.createElement(name), props);
    e.append(...children);
    return e;
  };
  const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u2009");
  const micros = (us) => us < 1000 ? us + " µs" : us < 1e6 ? (us / 1e3).toFixed(1) + " ms" : (us / 1e6).toFixed(3) + " s";
  const shown = (col, i) => {
    const v = col.v[i];
    if (v === null) return "";
    switch (col.kind) {
      case "text": return texts[v];
      case "us": return micros(v);
      case "time": return (v / 1e6).toFixed(6);
    }
    return String(v);
  };
  const rankOf = () => {
    if (!ranks) {
      const order = Uint32Array.from(texts.keys()).sort((a, b) => lower[a] < lower[b] ? -1 : lower[a] > lower[b] ? 1 : a - b);
      ranks = new Uint32Array(texts.length);
      order.forEach((t, i) => { ranks[t] = i; });
    }
    return ranks;
  };

  class Table {
    constructor(place, table) {
      this.t = table;
      this.all = Uint32Array.from({ length: table.rows }, (_, i) => i);
      this.rows = this.all; // those that pass the filter, in order
      this.page = 0;
      this.sort = null; // {col, down}
      this.picks = []; // [col, select]
      this.marks = table.cols.findIndex((c) => c.name === "mark" || c.name === "note");
      this.gaps = new Map(table.gaps || []);
      this.build(place);
      this.refilter();
    }

    build(place) {
      const label = place.dataset.label;
      this.query = el("input", { type: "search", placeholder: "Filter: words that a row must have", ariaLabel: "Filter " + label });
      this.query.addEventListener("input", () => this.refilter());
      const tools = el("div", { className: "tools" }, this.query);
      this.t.cols.forEach((col) => {
        if (!col.pick) return;
        const values = [...new Set(col.v)].filter((v) => v !== null && !(col.kind === "text" && v === 0));
        if (values.length === 0 || values.length > 200 || (values.length === 1 && col.name !== "mark")) return;
        const names = values.map((v) => [col.kind === "text" ? texts[v] : String(v), v]);
        names.sort((a, b) => col.kind === "text" ? (a[0] < b[0] ? -1 : 1) : a[1] - b[1]);
        const pick = el("select", { ariaLabel: label + ": " + col.name }, el("option", { value: "" }, col.pick));
        if (col.name === "mark") pick.append(el("option", { value: "*" }, "marked only"));
        for (const [name, v] of names) pick.append(el("option", { value: String(v) }, name));
        pick.addEventListener("change", () => this.refilter());
        this.picks.push([col, pick]);
        tools.append(pick);
      });
      if (this.t.focus !== undefined) {
        const go = el("button", { type: "button" }, "Show the finding");
        go.addEventListener("click", () => this.showFocus());
        tools.append(go);
      }
      this.status = el("span", { className: "status", role: "status" });
      tools.append(this.status);

      this.heads = this.t.cols.map((col, i) => {
        const button = el("button", { type: "button" }, col.name);
        button.addEventListener("click", () => this.sortBy(i));
        const th = el("th", { scope: "col", className: col.kind === "text" ? "" : "n" }, button);
        th.setAttribute("aria-sort", "none");
        return th;
      });
      this.body = el("tbody");
      const caption = el("caption", { className: "sr" }, label);
      const table = el("table", {}, caption, el("thead", {}, el("tr", {}, ...this.heads)), this.body);
      this.scroll = el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: label }, table);
      const turn = (text, to) => {
        const b = el("button", { type: "button" }, text);
        b.addEventListener("click", () => { this.page = to(); this.draw(); });
        return b;
      };
      this.back = [turn("First", () => 0), turn("Previous", () => this.page - 1)];
      this.on = [turn("Next", () => this.page + 1), turn("Last", () => this.last())];
      this.where = el("span", { className: "status" });
      this.pager = el("div", { className: "tools pager" }, ...this.back, ...this.on, this.where);
      place.append(tools, this.scroll, this.pager);
    }

    last() { return Math.max(0, Math.ceil(this.rows.length / pageRows) - 1); }

    // Rows that have every word in some cell. Each text is looked at once per
    // word, not once per row.
    refilter() {
      const words = this.query.value.toLowerCase().split(/\s+/).filter(Boolean);
      const cols = this.t.cols;
      const tests = words.map((word) => {
        const hits = Uint8Array.from(lower, (s) => s.includes(word) ? 1 : 0);
        const numeric = /^[\d.,-]+$/.test(word);
        return (i) => cols.some((c) => c.kind === "text" ? hits[c.v[i]] : numeric && shown(c, i).includes(word));
      });
      for (const [col, pick] of this.picks) {
        if (pick.value === "*") tests.push((i) => col.v[i] !== 0);
        else if (pick.value !== "") { const want = Number(pick.value); tests.push((i) => col.v[i] === want); }
      }
      this.filtered = tests.length > 0;
      this.matching = this.filtered ? this.all.filter((i) => tests.every((test) => test(i))) : this.all;
      this.reorder();
    }

    sortBy(col) {
      if (!this.sort || this.sort.col !== col) this.sort = { col, down: this.t.cols[col].kind !== "text" };
      else if (this.sort.down === (this.t.cols[col].kind !== "text")) this.sort = { col, down: !this.sort.down };
      else this.sort = null;
      this.heads.forEach((th, i) => th.setAttribute("aria-sort", this.sort && this.sort.col === i ? (this.sort.down ? "descending" : "ascending") : "none"));
      this.reorder();
    }

    // Empty cells come last in either direction; equal rows keep their order.
    reorder() {
      this.rows = this.matching;
      if (this.sort) {
        const { v, kind } = this.t.cols[this.sort.col];
        const rank = kind === "text" ? rankOf() : null;
        const sign = this.sort.down ? -1 : 1;
        const keys = new Float64Array(this.t.rows);
        for (let i = 0; i < keys.length; i++) {
          const empty = v[i] === null || (rank && v[i] === 0);
          keys[i] = empty ? Infinity : sign * (rank ? rank[v[i]] : v[i]);
        }
        this.rows = this.matching.slice().sort((a, b) => keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b);
      }
      this.page = 0;
      this.focus = -1;
      this.draw();
    }

    showFocus() {
      this.query.value = "";
      for (const [, pick] of this.picks) pick.value = "";
      this.sort = null;
      this.heads.forEach((th) => th.setAttribute("aria-sort", "none"));
      this.refilter();
      this.focus = this.t.focus;
      this.page = Math.floor(this.focus / pageRows);
      this.draw();
      const row = this.body.querySelector(".focus");
      if (row) row.scrollIntoView({ block: "center" });
    }

    draw() {
      const from = this.page * pageRows, to = Math.min(from + pageRows, this.rows.length);
      const lines = [];
      const plain = !this.filtered && !this.sort;
      for (let n = from; n < to; n++) {
        const i = this.rows[n];
        if (plain && this.gaps.has(i)) {
          lines.push(el("tr", { className: "gap" }, el("td", { colSpan: this.t.cols.length }, thousands(this.gaps.get(i)) + " calls are left out here")));
        }
        const tr = el("tr");
        if (this.marks >= 0 && texts[this.t.cols[this.marks].v[i]].includes("! ")) tr.className = "marked";
        if (i === this.focus) tr.className += " focus";
        for (const col of this.t.cols) {
          const text = shown(col, i);
          tr.append(el("td", { className: col.kind !== "text" ? "n" : text.length < 28 ? "nw" : "wrap" }, text));
        }
        lines.push(tr);
      }
      this.body.replaceChildren(...lines);
      const total = this.t.rows, n = this.rows.length;
      this.status.textContent = n === total ? thousands(total) + (total === 1 ? " row" : " rows") : thousands(n) + " of " + thousands(total) + " rows";
      this.where.textContent = n === 0 ? "" : thousands(from + 1) + "\u2013" + thousands(to) + " of " + thousands(n);
      this.pager.hidden = n <= pageRows;
      for (const b of this.back) b.disabled = this.page === 0;
      for (const b of this.on) b.disabled = this.page >= this.last();
    }
  }

  for (const table of data.tables) {
    const place = document.getElementById("t-" + table.name);
    if (place) new Table(place, table);
  }

  // Light, dark, or as the system has it.
  const theme = document.getElementById("theme");
  const themes = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
  let at = 0;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    at = (at + 1) % themes.length;
    if (themes[at][0]) document.documentElement.dataset.theme = themes[at][0];
    else delete document.documentElement.dataset.theme;
    theme.textContent = "Theme: " + themes[at][1];
  });
  // What is folded is printed too.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
