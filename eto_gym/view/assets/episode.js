// One episode as a conversation, and two beside each other.

function factsOf(known) {
  const told = [];
  if (known.finish === "length") told.push("cut at its limit");
  if (known.admissible === false) told.push("inadmissible");
  if (known.decoded_tokens !== undefined) told.push(`${known.decoded_tokens} tokens`);
  if (known.prompt_tokens !== undefined) told.push(`prompt ${known.prompt_tokens}`);
  if (known.seconds !== undefined) told.push(`${number(known.seconds, 2)} s`);
  return told;
}

// The text of a turn; what says no more than thought and action is not stored.
const textOf = (turn) => (turn[1] === null ? `Thought: ${turn[3]}\nAction: ${turn[4]}` : turn[1]);

function replyParts(turn) {
  const [, , , thought, action] = turn;
  const text = textOf(turn);
  if (action === null || action === undefined)
    return [h("pre", { class: "raw" }, text), h("p", { class: "fault" }, "no action was found")];
  return [
    thought && h("div", { class: "thought" }, h("span", { class: "what" }, "thought"),
      h("pre", {}, thought)),
    h("div", { class: "action" }, h("span", { class: "what" }, "action"), h("pre", {}, action)),
  ];
}

function message(turn, reward, known, extra = "") {
  const [role, , trained] = turn;
  const text = textOf(turn);
  const mask = trained ? "trained" : "masked";
  if (role !== "assistant")
    return h("div", { class: `turn ${role} ${mask} ${extra}` },
      h("span", { class: "who" }, role === "user" ? "environment" : role), h("pre", {}, text));
  const told = known ? factsOf(known) : [];
  return h("div", { class: `turn assistant ${mask} ${extra}` },
    h("span", { class: "who" }, "agent"), replyParts(turn),
    h("details", { class: "whole" },
      h("summary", { class: "facts" },
        reward !== undefined && reward !== null &&
          h("span", { class: reward ? "reward" : "" }, `reward ${short(reward)}`),
        told.map((fact) => h("span", {}, fact)),
        h("span", { class: "hint" }, "as it was said")),
      h("pre", { class: "raw" }, text)),
    known && Array.isArray(known.admissible_actions) && h("details", { class: "admissible" },
      h("summary", {}, `${known.admissible_actions.length} admissible actions`),
      h("ul", {}, known.admissible_actions.map((action) => h("li", {}, action)))));
}

function headPart(head) {
  if (!head.length) return null;
  const letters = head.reduce((sum, [, text]) => sum + text.length, 0);
  return h("details", { class: "head" },
    h("summary", {}, `what precedes it: ${head.length} messages, ${letters} characters`),
    head.map(([role, text]) => message([role, text, 0])));
}

// Rounds of an episode: each reply with the message before it, its reward and its facts.
function roundsOf({ turns, rewards = [], facts = [] }) {
  const rounds = [];
  let waiting = [];
  const replies = turns.filter((turn) => turn[0] === "assistant").length;
  let at = rewards.length - replies;  // replies before the first step are no steps
  for (const turn of turns) {
    waiting.push({ turn });
    if (turn[0] === "assistant") {
      Object.assign(waiting[waiting.length - 1], { reward: rewards[at], known: facts[at] });
      at += 1;
      rounds.push(waiting);
      waiting = [];
    }
  }
  if (waiting.length) rounds.push(waiting);
  return rounds;
}

function roundPart(round, extra) {
  return round.map(({ turn, reward, known }) => message(turn, reward, known, extra));
}

async function episodeView(store, row) {
  const body = await store.body("episodes", row);
  const samples = store.byTask.get(row.task);
  return [
    h("h1", {}, row.task, " ", outcome(row)),
    h("p", { class: "facts" },
      [row.type, row.group, `sample ${row.sample}`, `reward ${short(row.reward)}`,
        `${row.steps} steps`, row.tokens !== null && `${row.tokens} tokens generated`,
        row.bad > 0 && `${row.bad} replies without an action`,
        row.cut > 0 && `${row.cut} cut replies`,
        row.inadmissible > 0 && `${row.inadmissible} inadmissible actions`,
        row.repeated > 0 && `${row.repeated} repeated actions`]
        .filter(Boolean).map((fact) => h("span", {}, fact))),
    row.replaced && h("p", { class: "fault" }, "it was played again; the later episode counts"),
    samples.length > 1 && h("p", {}, h("a", { id: "samples",
      href: `#/task/${encoded(row.task)}` },
      `all ${samples.length} episodes of this task`)),
    h("label", { class: "toggle" }, h("input", { type: "checkbox", id: "shade",
      onchange: (event) => document.getElementById("conversation")
        .classList.toggle("shaded", event.target.checked) }),
      " shade what is not trained on"),
    headPart(body.head),
    h("div", { id: "conversation", class: "conversation" },
      roundsOf(body).map((round) => roundPart(round, "")),
      body.turns.length > 0 && body.turns[body.turns.length - 1][0] === "assistant" && body.end &&
        message(["user", body.end, 0], null, null, "end")),
    h("details", { class: "card" }, h("summary", {}, "where it was played"),
      h("pre", {}, JSON.stringify({ env: body.env, usage: body.usage, seed: body.seed }, null, 1))),
  ];
}

// Two sides, aligned round by round; the first round whose actions differ is marked.
function sideBySide(left, right, names) {
  const sides = [left, right].map(roundsOf);
  const actionOf = (round) => {
    const reply = round && round[round.length - 1].turn;
    if (!reply || reply[0] !== "assistant") return undefined;
    return reply[4] === null || reply[4] === undefined ? textOf(reply) : reply[4];
  };
  const length = Math.max(sides[0].length, sides[1].length);
  let divergence = 0;
  while (divergence < length &&
    actionOf(sides[0][divergence]) === actionOf(sides[1][divergence])) divergence += 1;
  const rows = [];
  for (let i = 0; i < length; i++) {
    const first = i === divergence;
    if (first) rows.push(h("div", { class: "divergence", id: "divergence" },
      `first divergence: turn ${i + 1}`));
    rows.push(h("div", { class: `aligned${first ? " differs" : ""}` },
      sides.map((side, k) => h("div", { class: k ? "right" : "left" },
        side[i] ? roundPart(side[i], first ? "first" : "") : h("p", { class: "over" },
          i === side.length ? "it ends here" : "")))));
  }
  if (divergence === length) rows.push(h("div", { class: "divergence" }, "no action differs"));
  return h("div", { class: "sides" },
    h("div", { class: "aligned names" }, names.map((name) => h("div", {}, name))), rows);
}

async function pairView(store, row) {
  const body = await store.body("pairs", row);
  const at = row.number;
  return [
    h("h1", {}, row.task),
    h("p", { class: "facts" }, [row.source, `pair ${at + 1} of ${store.pairs.length}`,
      `chosen ${row.chosen} turns`, `rejected ${row.rejected} turns`]
      .map((fact) => h("span", {}, fact))),
    store.byTask.has(row.task) && h("p", {}, h("a", {
      href: `#/task/${encoded(row.task)}` }, "episodes of this task")),
    headPart(body.head),
    sideBySide({ turns: body.chosen }, { turns: body.rejected },
      [h("strong", { class: "chosen" }, "chosen"), h("strong", { class: "rejected" }, "rejected")]),
  ];
}

async function duelView(store, before, after) {
  const bodies = await Promise.all([before, after].map((row) => store.body("episodes", row)));
  return [
    h("h1", {}, before.task),
    headPart(bodies[0].head),
    sideBySide(bodies[0], bodies[1], [before, after].map((row) => [
      h("a", { href: row.path }, row.group), " ", outcome(row)])),
  ];
}
