"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const MODES = ["non_thinking", "auto", "thinking"];
const GIVEN = { auto: "", thinking: "\n", non_thinking: "\n\n</think>" };
const PAGE = 30;
const $ = (id) => document.getElementById(id);
let limit = PAGE;

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function fill(id, values, any) {
  for (const value of any ? ["", ...values] : values) {
    const option = element("option", "", value ? value.replace("_", "-") : any);
    option.value = value;
    $(id).append(option);
  }
}

function shownModes(responses) {
  return MODES.filter((mode) => mode in responses && (!$("mode").value || $("mode").value === mode));
}

function passes(item) {
  if ($("task").value && item.task !== $("task").value) return false;
  if ($("level").value && item.level !== $("level").value) return false;
  const responses = item.responses[$("model").value];
  const modes = shownModes(responses);
  const right = (mode) => mode in responses && responses[mode][0] === 1;
  switch ($("outcome").value) {
    case "wrong": return modes.some((mode) => !right(mode));
    case "right": return modes.every(right);
    case "thought": return "auto" in responses && responses.auto[2] === 1;
    case "direct": return "auto" in responses && responses.auto[2] === 0;
    case "helps": return right("thinking") && !right("non_thinking");
    case "hurts": return !right("thinking") && right("non_thinking");
    default: return true;
  }
}

function answer(mode, [correct, tokens, thought, text]) {
  const box = element("div", correct ? "answer right" : "answer");
  const head = element("header");
  head.append(element("span", "verdict", correct ? "✓" : "✗"), element("b", "", mode.replace("_", "-")));
  head.append(element("span", "", `${thought ? "thought, " : ""}${tokens} tokens`));
  const given = "<think>" + (text.startsWith(GIVEN[mode]) ? GIVEN[mode] : "");
  const pre = element("pre");
  pre.append(element("i", "", given), text.slice(given.length - "<think>".length));
  box.append(head, pre);
  return box;
}

function card(item) {
  const node = element("article", "item");
  const side = element("div"), body = element("div"), answers = element("div", "answers");
  for (const url of item.images) {
    const image = element("img");
    image.src = url;
    image.alt = "the question's picture";
    side.append(image);
  }
  side.append(element("div", "meta", `${item.task} · ${item.level}`), element("div", "meta", item.id));
  body.append(element("div", "", item.question), element("div", "gold", `answer: ${item.answer}`));
  const responses = item.responses[$("model").value];
  for (const mode of shownModes(responses)) answers.append(answer(mode, responses[mode]));
  body.append(answers);
  node.append(side, body);
  return node;
}

function show() {
  const found = data.items.filter(passes);
  $("items").replaceChildren(...found.slice(0, limit).map(card));
  $("count").textContent = `${found.length} of ${data.items.length}`;
  $("more").hidden = found.length <= limit;
}

fill("model", data.models);
$("model").value = data.models[data.models.length - 1];
fill("task", [...new Set(data.items.map((item) => item.task))].sort(), "all");
fill("level", ["easy", "mid", "hard"].filter((level) => data.items.some((item) => item.level === level)), "all");
fill("mode", MODES.filter((mode) => data.items.some((item) => mode in item.responses[data.models[0]])), "all");
for (const id of ["model", "task", "level", "mode", "outcome"]) $(id).addEventListener("change", () => { limit = PAGE; show(); });
$("more").addEventListener("click", () => { limit += PAGE; show(); });
show();
