"use strict";
// The report's browser of questions. All text of the data goes through textContent, so none of it can be markup; the
// list keeps only the rows in view, so its length does not matter.

const ROW_HEIGHT = 56; // pixels, as in report.css
const ROWS_BEYOND = 8; // kept above and below the view, so that scrolling shows no gaps
const FAINTEST = 8; // nats: a token this improbable, or more, has the strongest colour
const IN_ORDER = 10; // candidates shown in the data's order; more of them are sorted by score

const content = JSON.parse(document.getElementById("content").textContent);
const questions = content.questions;
// An ending is encoded after one space, which the first piece begins with.
const endingText = content.endings.map((pieces) => pieces.filter((piece) => piece !== null).join("").slice(1));
const byId = (id) => document.getElementById(id);
const [list, spacer, detail] = ["list", "spacer", "detail"].map(byId);

let shown = []; // indices into questions, filtered and sorted
let selected = -1; // index into questions
const rows = new Map(); // position in shown -> its element

function element(tag, { className, text, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const isRight = (question) => question.label === question.prediction;
const confidence = (question) => question.probabilities[question.prediction];
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const goldText = (question) => endingText[question.endings[question.label]];

const haystacks = new Array(questions.length);
function haystack(index) {
  const question = questions[index];
  haystacks[index] ??= [
    question.id,
    ...question.fields.map(([, text]) => text),
    ...question.endings.map((place) => endingText[place]),
  ].join("\n").toLowerCase();
  return haystacks[index];
}

function number(id, otherwise) {
  const value = byId(id).valueAsNumber;
  return Number.isNaN(value) ? otherwise : value;
}

function applyFilters() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const outcome = byId("outcome").value;
  const label = byId("label").value;
  const [low, high] = [number("margin-low", -Infinity), number("margin-high", Infinity)];
  shown = [];
  questions.forEach((question, index) => {
    if (outcome !== "all" && isRight(question) !== (outcome === "right")) return;
    if (label !== "" && question.label !== Number(label)) return;
    if (question.margin < low || question.margin > high) return;
    if (words.every((word) => haystack(index).includes(word))) shown.push(index);
  });
  const order = byId("sort").value;
  const sign = order === "sure" ? -1 : 1;
  // A confidence that rounds to 1 says no more; the margin still does.
  const compare = (a, b) =>
    confidence(questions[a]) - confidence(questions[b]) || questions[a].margin - questions[b].margin;
  if (order !== "data") shown.sort((a, b) => sign * compare(a, b));
  const right = shown.filter((index) => isRight(questions[index])).length;
  byId("count").textContent = `${shown.length} of ${questions.length} questions, ${right} right`;
  for (const row of rows.values()) row.remove();
  rows.clear();
  spacer.style.height = `${shown.length * ROW_HEIGHT}px`;
  list.scrollTop = 0;
  drawRows();
}

function drawRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - ROWS_BEYOND);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + ROWS_BEYOND);
  for (const [position, row] of rows) {
    if (position < first || position >= last) {
      row.remove();
      rows.delete(position);
    }
  }
  for (let position = first; position < last; position++) {
    if (!rows.has(position)) rows.set(position, list.appendChild(makeRow(position)));
  }
  markSelected();
}

function makeRow(position) {
  const question = questions[shown[position]];
  const outcome = isRight(question) ? "right" : "wrong";
  const row = element(
    "div",
    {
      className: `row ${outcome}`,
      role: "option",
      id: `row-${shown[position]}`,
      "aria-posinset": position + 1,
      "aria-setsize": shown.length,
    },
    element(
      "div",
      { className: "line" },
      element("bdi", { className: "name", text: question.id }),
      element("span", { text: `${outcome} · ${percent(confidence(question))}` }),
    ),
    element("div", { className: "snippet", dir: "auto", text: goldText(question) }),
  );
  row.style.top = `${position * ROW_HEIGHT}px`;
  row.addEventListener("click", () => {
    select(position);
    if (matchMedia("(max-width: 45rem)").matches) detail.scrollIntoView();
  });
  return row;
}

function markSelected() {
  list.removeAttribute("aria-activedescendant");
  for (const [position, row] of rows) {
    const chosen = shown[position] === selected;
    row.setAttribute("aria-selected", chosen);
    if (chosen) list.setAttribute("aria-activedescendant", row.id);
  }
}

function select(position) {
  if (!shown.length) return;
  position = Math.min(Math.max(position, 0), shown.length - 1);
  const top = position * ROW_HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  const bottom = top + ROW_HEIGHT - list.clientHeight;
  if (bottom > list.scrollTop) list.scrollTop = bottom;
  selected = shown[position];
  drawRows();
  showQuestion(questions[selected]);
}

function showQuestion(question) {
  const right = isRight(question);
  const facts = [`margin ${question.margin.toFixed(3)}`, `confidence ${percent(confidence(question))}`];
  if (question.truncated) facts.push(`${question.truncated} tokens cut from the left`);
  if (question.endingsTruncated) facts.push(`${question.endingsTruncated} tokens cut from the right of its holdings`);
  const back = element("button", { className: "back", type: "button", text: "Back to the list" });
  back.addEventListener("click", leaveDetail);
  const order = question.endings.map((_, index) => index);
  if (order.length > IN_ORDER) order.sort((a, b) => question.values[b] - question.values[a]);
  detail.replaceChildren(
    back,
    element("h3", {}, element("bdi", { text: question.id })),
    element(
      "p",
      {},
      element("span", { className: `outcome ${right ? "right" : ""}`, text: right ? "right" : "wrong" }),
      ` · ${facts.join(" · ")}`,
    ),
    ...question.fields.flatMap(([name, text]) => [element("h3", { text: name }), passage(text)]),
    element("h3", { text: "Candidates" }),
    element("ol", { className: "candidates" }, ...order.map((index) => candidate(question, index))),
  );
  detail.scrollTop = 0;
}

function passage(text) {
  const node = element("p", { className: "passage", dir: "auto" });
  text.split(content.mask).forEach((part, index) => {
    if (index) node.append(element("mark", { text: content.mask }));
    node.append(part);
  });
  return node;
}

function candidate(question, index) {
  const gold = index === question.label;
  const choice = index === question.prediction;
  const logprob = question.logprobs[index];
  const tokens = question.tokens[index];
  const numbers = [
    `log-prob ${logprob.toFixed(2)}`,
    `mean ${(logprob / tokens.length).toFixed(3)}`,
    `probability ${percent(question.probabilities[index])}`,
    `${tokens.length} tokens`,
  ];
  if (content.score !== "sum" && content.score !== "mean") {
    numbers.push(`${content.score} ${question.values[index].toFixed(3)}`);
  }
  const fill = element("span", { className: "fill" });
  fill.style.display = "block";
  fill.style.width = `${100 * question.probabilities[index]}%`;
  const text = element("span", { className: "text", dir: "auto", text: endingText[question.endings[index]] });
  const badges = [];
  if (gold) badges.push(element("span", { className: "badge gold", text: "gold" }));
  if (choice) badges.push(element("span", { className: "badge choice", text: "choice" }));
  const button = element(
    "button",
    { className: `candidate${gold ? " gold" : ""}`, type: "button", "aria-expanded": choice },
    ...badges,
    `${index}. `,
    text,
    element("span", { className: "numbers" }, ...numbers.map((part) => element("span", { text: part }))),
    element("span", { className: "track", style: "display: block" }, fill),
  );
  const item = element("li", {}, button);
  const panel = () => tokenPanel(content.endings[question.endings[index]], tokens);
  if (choice) item.append(panel());
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", !open);
    if (open) item.lastChild.remove();
    else item.append(panel());
  });
  return item;
}

function tokenPanel(pieces, logprobs) {
  const panel = element("div", { className: "tokens", dir: "auto" });
  pieces.forEach((piece, index) => {
    const value = logprobs[index];
    const token = element("span", {
      className: piece === null ? "token end" : "token",
      text: piece === null ? "end" : piece,
      title: value.toFixed(3),
      "data-logprob": value,
    });
    token.style.backgroundColor = `rgba(var(--token), ${Math.min(-value / FAINTEST, 1) * 0.75})`;
    panel.append(token);
  });
  const range = `from 0 (none) to -${FAINTEST} or less (strongest)`;
  const scale = `Colour: log-prob of each token, ${range}. Point at a token for its number.`;
  return element("div", {}, panel, element("p", { className: "note", text: scale }));
}

function leaveDetail() {
  list.focus();
  list.scrollIntoView({ block: "nearest" });
}

const place = () => shown.indexOf(selected);
const page = () => Math.max(1, Math.floor(list.clientHeight / ROW_HEIGHT) - 1);
const moves = {
  ArrowDown: () => place() + 1,
  ArrowUp: () => place() - 1,
  PageDown: () => place() + page(),
  PageUp: () => place() - page(),
  Home: () => 0,
  End: () => shown.length - 1,
};

list.addEventListener("keydown", (event) => {
  if (event.key in moves) {
    event.preventDefault();
    select(moves[event.key]());
  } else if (event.key === "Enter" && selected >= 0) {
    event.preventDefault();
    detail.focus();
  }
});
detail.addEventListener("keydown", (event) => {
  if (event.key === "Escape") leaveDetail();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT)$/.test(event.target.tagName)) {
    event.preventDefault();
    byId("search").focus();
  }
});
byId("search").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "Escape") return;
  event.preventDefault();
  list.focus();
});

let drawing = 0;
list.addEventListener("scroll", () => {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(drawRows);
});
new ResizeObserver(drawRows).observe(list);

let typing = 0;
byId("filters").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(applyFilters, 120); // milliseconds: one pass over the questions, not one a key
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());

for (const label of [...new Set(questions.map((question) => question.label))].sort((a, b) => a - b)) {
  const name = content.classes ? `${label}: ${endingText[questions[0].endings[label]]}` : String(label);
  byId("label").append(element("option", { value: label, text: name }));
}
applyFilters();
select(0);
