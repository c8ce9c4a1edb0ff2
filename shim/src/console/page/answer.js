// Shows what `osm-egress explain` says. Whatever others wrote is put into the page as text, never as HTML.

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

export function list(title, items, id) {
  if (!items.length) return [];
  const made = element("ul", { class: "list" }, ...items.map((item) => element("li", {}, ...item)));
  if (id) made.id = id;
  return [element("h3", {}, title), made];
}

export const place = ({ file, line }) => (file ? element("span", { class: "quiet mono" }, line ? `${file}:${line}` : file) : null);

export function problemText({ field, message, advice }) {
  return [field ? element("code", {}, field) : null, field ? ": " : "", message, advice ? element("div", { class: "quiet" }, advice) : null];
}

const HOW = { dialled: "the address that was dialled", passthrough: "the address that was dialled, by global egress" };
const STAGE = { connection: "port and address", "first-bytes": "the first bytes", request: "the request" };

// The parts of an answer: verdict, facts, rules, hints, proxies.
export function answer({ report, rules }) {
  const allowed = report.verdict === "allow";
  const facts = element("dl", {}, ...term("asked", element("code", {}, `${report.identity} -> ${report.connection}`)));
  if (report.policy) {
    const by = allowed && !report.wouldRefuse ? "by" : "nearest";
    facts.append(...term(by, element("code", { id: "rule" }, `${report.policy} ${report.rule}`), " ", place(report)));
  }
  if (report.wouldRefuse) facts.append(...term("would be", element("strong", { class: "warning" }, report.wouldRefuse)));
  if (report.goesTo) {
    const { how, host, port, cluster } = report.goesTo;
    const to = HOW[how] ?? `${host}:${port}, as the sidecar resolves it`;
    facts.append(...term("goes to", to, " ", element("span", { class: "quiet" }, `(cluster ${cluster})`)));
  }
  facts.append(...term("decided by", STAGE[report.stage] ?? report.stage));
  facts.append(...term("mode", `${report.mode}, document ${report.document}`));
  const decides = (rule) => allowed && !rule.lacks.length && rule.policy === report.policy && rule.rule === report.rule;
  const others = report.rules.map((rule, index) => [rule, rules[index]]).filter(([rule]) => !decides(rule));
  return [
    element("p", { class: `verdict ${allowed ? "good" : "bad"}` },
      element("span", { id: "verdict" }, allowed ? "ALLOWED" : "DENIED"), " ",
      element("code", { id: "reason" }, report.reason ?? "")),
    element("p", {}, report.meaning),
    facts,
    ...proxies(report.proxies),
    ...list("But allowed at", report.allowedAt.map((at) => [`${at.addresses.join(", ")}, by Egress ${at.policy} ${at.rule}`])),
    ...list("Probably meant", report.hints.map((hint) => [hint]), "hints"),
    ...list(report.rules.length > others.length ? "Other rules, the nearest first" : "Rules, the nearest first", others.map(([rule, lacks]) => [
      element("code", {}, `${rule.policy} ${rule.rule}`), ` (${rule.protocol} ${rule.port}) `, place(rule),
      element("ul", {}, ...(lacks.length ? lacks : ["allows it too"]).map((lack) => element("li", {}, lack))),
    ]), "others"),
    ...list("Policies with mistakes", report.notAccepted.map((condition) => [
      element("code", {}, `${condition.object.namespace}/${condition.object.name}`),
      element("ul", {}, ...condition.problems.map((problem) => element("li", {}, ...problemText(problem)))),
    ])),
    ...list("Cannot be read", report.unreadable.map((problem) => [place(problem), " ", ...problemText(problem)])),
    ...list("Notes", report.notes.map((note) => [note])),
  ];
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
