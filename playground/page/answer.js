// Shows what `osm-egress explain` says, in the playground and in the console. Whatever others wrote is put into the page
// as text, never as HTML.

// So many other rules are all shown at once.
const MANY = 6;
const MOST_NEAR = 20;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export const term = (name, ...values) => [element("dt", {}, name), element("dd", {}, ...values)];

function items(texts, id) {
  const made = element("ul", { class: "list" }, ...texts.map((text) => element("li", {}, ...text)));
  if (id) made.id = id;
  return made;
}

const list = (title, texts, id) => (texts.length ? [element("h3", {}, title), items(texts, id)] : []);

export function problemText({ field, message, advice }) {
  return [field ? element("code", {}, field) : null, field ? ": " : "", message, advice ? element("div", { class: "quiet" }, advice) : null];
}

const HOW = { dialled: "the address that was dialled", passthrough: "the address that was dialled, by global egress" };
const STAGE = { connection: "port and address", "first-bytes": "the first bytes", request: "the request" };

// The parts of an answer: verdict, facts, proxies, rules, hints. `place` shows where something stands.
export function answer({ report, rules }, place) {
  const allowed = report.verdict === "allow";
  const facts = element("dl", {}, ...term("asked", element("code", {}, `${report.identity} -> ${report.connection}`)));
  if (report.policy) {
    const by = allowed && !report.wouldRefuse ? "by" : "nearest";
    const rule = report.rules.find((rule) => rule.policy === report.policy && rule.rule === report.rule);
    facts.append(...term(by, element("code", { id: "rule" }, `${report.policy} ${report.rule}`), rule ? ` (${rule.protocol} ${rule.port}) ` : " ", place(report)));
  }
  if (report.wouldRefuse) facts.append(...term("would be", element("strong", { class: "warning" }, report.wouldRefuse)));
  if (report.goesTo) {
    const { how, host, port, cluster } = report.goesTo;
    const to = HOW[how] ?? `${host}:${port}, as the sidecar resolves it`;
    facts.append(...term("goes to", to, " ", element("span", { class: "quiet" }, `(cluster ${cluster})`)));
  }
  facts.append(...term("decided by", STAGE[report.stage] ?? report.stage));
  facts.append(...term("mode", `${report.mode}, document ${report.document}`));
  const decides = (rule) => allowed && !rule.mismatches.length && rule.policy === report.policy && rule.rule === report.rule;
  const others = report.rules.map((rule, index) => ({ rule, ...rules[index] })).filter(({ rule }) => !decides(rule));
  // The nearest come first.
  const near = others.filter((one) => !one.unrelated).slice(0, MOST_NEAR);
  const far = others.slice(near.length);
  const ruling = ({ rule, mismatches }) => [
    element("code", {}, `${rule.policy} ${rule.rule}`), ` (${rule.protocol} ${rule.port}) `, place(rule),
    element("ul", {}, ...(mismatches.length ? mismatches : ["allows it too"]).map((lack) => element("li", {}, lack))),
  ];
  return [
    element("p", { class: `verdict ${allowed ? "good" : "bad"}` },
      element("span", { id: "verdict" }, allowed ? "ALLOWED" : "DENIED"), " ",
      element("code", { id: "reason" }, report.reason ?? "")),
    element("p", {}, report.meaning),
    facts,
    ...proxies(report.proxies),
    ...list("But allowed at", report.allowedAt.map((at) => [`${at.addresses.join(", ")}, by Egress ${at.policy} ${at.rule}`])),
    ...list("Probably meant", report.hints.map((hint) => [hint]), "hints"),
    ...list(report.rules.length > others.length ? "Other rules, the nearest first" : "Rules, the nearest first", near.map(ruling), "others"),
    ...aside(far.map(ruling), far.every((one) => one.unrelated), others.length <= MANY),
    ...list("Policies with mistakes", report.notAccepted.map((condition) => [
      element("code", {}, `${condition.object.namespace}/${condition.object.name}`),
      element("ul", {}, ...condition.problems.map((problem) => element("li", {}, ...problemText(problem)))),
    ])),
    ...list("Cannot be read, so what stands there is missing here", report.unreadable.map((problem) => [place(problem), " ", ...problemText(problem)]), "unreadable"),
    ...list("Notes", report.notes.map((note) => [note])),
  ];
}

// Rules that have little or nothing in common with what is asked: out of the way where there are many.
function aside(rules, unrelated, open) {
  if (!rules.length) return [];
  const count = (one, many) => `${rules.length} ${rules.length === 1 ? one : many}`;
  const many = unrelated ? `${count("rule is", "rules are")} about something else` : count("more rule", "more rules");
  return [element("details", { id: "aside", ...(open && { open: "" }) }, element("summary", {}, many), items(rules))];
}

// Whether the sidecars have the document that was asked.
function proxies(said) {
  if (!said) return [];
  if (!said.proxies.length) return list("Proxies", [["no proxy of this identity is connected to this control plane"]], "having");
  const have = said.proxies.filter((proxy) => proxy.acknowledged).length;
  const late = said.proxies.filter((proxy) => !proxy.acknowledged || proxy.rejected.length);
  return list("Proxies", [
    [element("span", { class: have === said.proxies.length ? "good" : "bad" }, `${have} of ${said.proxies.length} have acknowledged this document`)],
    ...late.map((proxy) => [element("code", {}, proxy.node), ` has ${proxy.document ? `document ${proxy.document}` : "none yet"}`,
      element("ul", {}, ...proxy.rejected.map((error) => element("li", { class: "bad" }, `refused ${error}`)))]),
  ], "having");
}
