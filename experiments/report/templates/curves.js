// Curves that can be hovered and switched. The data are in #curves: arms, and quantities with a series for each arm.
// A quantity that every arm has of one round only is no curve: it is shown as a row for each arm.
"use strict";
(() => {
  const {arms, quantities} = JSON.parse(document.getElementById("curves").textContent);
  const chart = document.getElementById("chart");
  const shown = arms.map(() => true);
  let quantity = 0, cursor = null, scale = null;

  const colour = arm => `var(--c${arm % 8})`;
  const dash = arm => (arm < 8 ? "" : arm < 16 ? "7 4" : "2 3");
  const show = (value, percent) => (percent ? (100 * value).toFixed(1) + "%" : value.toPrecision(3));

  const spread = ({mean, low, high}, percent) =>
    show(mean, percent) + (high > low ? ` (${show(low, percent)} to ${show(high, percent)})` : "");
  const tickLabel = (value, percent) => (percent ? `${+(100 * value).toFixed(2)}%` : `${+value.toPrecision(3)}`);
  const end = (values, top) => Math.min(top ?? Infinity, 1.08 * Math.max(...values.filter(v => v !== null), 1e-9));

  function element(name, attributes, parent, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  // Round numbers at which grid lines lie: about `count` of them from `low` to `high`.
  function ticks(low, high, count, whole) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 5, 10].map(f => f * power).find(s => s >= rough);
    if (whole) step = Math.max(1, Math.round(step));
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
    return found;
  }

  function draw() {
    const {series, percent, top, title} = quantities[quantity];
    const visible = series.filter(s => shown[s.arm]);
    chart.querySelector("svg, .states")?.remove();
    if (series.every(s => s.rounds.length === 1)) return drawStates(visible, percent, top);
    const width = Math.max(240, chart.clientWidth), height = Math.round(Math.min(420, Math.max(240, width * 0.5)));
    const box = {left: 46, right: width - 10, top: 12, bottom: height - 38};
    const rounds = series.flatMap(s => s.rounds);
    const first = Math.min(...rounds), last = Math.max(...rounds, first + 1);
    const upper = end(visible.flatMap(s => s.high), top);
    const x = r => box.left + (r - first) / (last - first) * (box.right - box.left);
    const y = v => box.bottom - Math.min(v, upper * 1.05) / upper * (box.bottom - box.top);
    scale = {x, y, box, rounds: [...new Set(rounds)].sort((a, b) => a - b)};

    const svg = element("svg", {viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img"});
    svg.setAttribute("aria-label", `${title} over rounds; left and right arrow keys move between rounds`);
    for (const v of ticks(0, upper, 5, false)) {
      element("line", {class: "grid", x1: box.left, x2: box.right, y1: y(v), y2: y(v)}, svg);
      element("text", {x: box.left - 6, y: y(v) + 4, "text-anchor": "end"}, svg, tickLabel(v, percent));
    }
    for (const r of ticks(first, last, Math.min(10, width / 70), true))
      element("text", {x: x(r), y: box.bottom + 18, "text-anchor": "middle"}, svg, r);
    element("text", {x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle"}, svg, "round");
    for (const s of visible) paint(svg, s, x, y);
    element("line", {class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden"}, svg);
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", event => event.pointerType === "mouse" && move(null));
    svg.addEventListener("keydown", event => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!step) return;
      event.preventDefault();
      const at = scale.rounds.indexOf(cursor);
      move(scale.rounds[Math.min(scale.rounds.length - 1, Math.max(0, at + step))]);
    });
    chart.prepend(svg);
    move(cursor);
  }

  function paint(svg, {arm, rounds, mean, low, high}, x, y) {
    const known = rounds.map((_, i) => i).filter(i => mean[i] !== null);
    if (!known.length) return;
    const line = (list, of) => list.map(i => `${x(rounds[i]).toFixed(1)} ${y(of[i]).toFixed(1)}`).join(" L");
    const band = `M${line(known, high)} L${line([...known].reverse(), low)} Z`;
    const bar = known.length === 1 ? `; stroke: ${colour(arm)}; stroke-width: 5px` : "";
    element("path", {class: "band", d: band, style: `fill: ${colour(arm)}${bar}`}, svg);
    const style = `stroke: ${colour(arm)}`;
    element("path", {class: "mean", d: `M${line(known, mean)}`, style, "stroke-dasharray": dash(arm)}, svg);
    const r = known.length === 1 ? 4 : 2.5;
    if (known.length < 25)
      for (const i of known)
        element("circle", {cx: x(rounds[i]), cy: y(mean[i]), r, style: `fill: ${colour(arm)}`}, svg);
  }

  // Each arm's mean as a mark, and a bar from its lowest to its highest seed.
  function drawStates(visible, percent, top) {
    const rows = visible.map(s => ({arm: s.arm, round: s.rounds[0], mean: s.mean[0], low: s.low[0], high: s.high[0]}))
      .filter(row => row.mean !== null);
    const upper = end(rows.map(row => row.high), top), at = value => `${Math.min(100, 100 * value / upper)}%`;
    const states = block("states", null);
    const scaled = (parent, label) => ticks(0, upper, 5, false).forEach(v => {
      block("tick", parent, label ? tickLabel(v, percent) : "").style.left = at(v);
    });
    for (const row of rows) {
      const name = block("name", states);
      name.style.color = colour(row.arm);
      block("", name, arms[row.arm].label);
      block("", name, spread(row, percent));
      const track = block("track", states);
      track.style.color = colour(row.arm);
      scaled(track, false);
      Object.assign(block("bar", track).style, {left: at(row.low), right: `calc(100% - ${at(row.high)})`});
      block("mark", track).style.left = at(row.mean);
    }
    scaled(block("scale", states), true);
    const rounds = [...new Set(rows.map(row => row.round))].sort((a, b) => a - b);
    if (rows.length) block("after", states, `after round ${rounds.join(" or ")}`);
    cursor = null;
    chart.querySelector(".tip").hidden = true;
    chart.prepend(states);
  }

  function block(kind, parent, text = "") {
    const made = document.createElement("div");
    made.className = kind;
    made.textContent = text;
    parent?.append(made);
    return made;
  }

  function point(event) {
    const at = event.clientX - chart.querySelector("svg").getBoundingClientRect().left;
    move(scale.rounds.reduce((a, b) => (Math.abs(scale.x(b) - at) < Math.abs(scale.x(a) - at) ? b : a)));
  }

  // Show the values of one round, or hide them (null).
  function move(round) {
    cursor = round;
    const tip = chart.querySelector(".tip"), line = chart.querySelector(".cursor");
    tip.hidden = round === null || round === undefined;
    line.setAttribute("visibility", tip.hidden ? "hidden" : "visible");
    if (tip.hidden) return;
    const {series, percent} = quantities[quantity];
    const rows = series.filter(s => shown[s.arm]).flatMap(s => {
      const i = s.rounds.indexOf(round);
      return i < 0 || s.mean[i] === null ? [] : [{arm: s.arm, mean: s.mean[i], low: s.low[i], high: s.high[i]}];
    });
    tip.replaceChildren(`round ${round}`, ...rows.sort((a, b) => b.mean - a.mean).map(row => {
      const entry = document.createElement("div"), name = document.createElement("span"), value = document.createElement("span");
      name.style.color = colour(row.arm);
      name.textContent = arms[row.arm].label;
      value.textContent = spread(row, percent);
      entry.append(name, value);
      return entry;
    }));
    const x = scale.x(round), right = x > (scale.box.left + scale.box.right) / 2;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    tip.style.left = right ? "auto" : `${x + 10}px`;
    tip.style.right = right ? `${chart.clientWidth - x + 10}px` : "auto";
  }

  function button(parent, text, pressed, press) {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...text);
    made.setAttribute("aria-pressed", pressed);
    made.addEventListener("click", () => press(made));
    parent.append(made);
  }

  const choices = document.getElementById("quantities"), legend = document.getElementById("legend");
  quantities.forEach((q, number) => button(choices, [q.title], number === 0, pressed => {
    quantity = number;
    for (const other of choices.children) other.setAttribute("aria-pressed", other === pressed);
    draw();
  }));
  arms.forEach((arm, number) => {
    const mark = document.createElement("i");
    mark.style.background = colour(number);
    button(legend, [mark, `${arm.label} (${arm.seeds})`], true, pressed => {
      shown[number] = !shown[number];
      pressed.setAttribute("aria-pressed", shown[number]);
      draw();
    });
  });
  new ResizeObserver(draw).observe(chart.parentElement);
  draw();
})();
