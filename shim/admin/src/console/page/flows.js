// Flows: what workloads talk to, live.
import { element } from "./answer.js";
import { MOST, byId, count, json } from "./common.js";

// Flows by what makes them one, the last change that was seen, and what they were asked with.
let flows = new Map();
let sequence = 0;
let flowQuery = null;

const key = (flow) => JSON.stringify([flow.identity, flow.name ?? flow.addresses[0], flow.port, flow.protocol, flow.verdict, flow.reason, flow.policy, flow.rule, flow.wouldRefuse]);

const host = (flow) => {
  const address = flow.addresses[0] ?? "-";
  if (flow.name === null) return address.includes(":") ? `[${address}]` : address;
  return flow.protocol === "http" && flow.name.endsWith(`:${flow.port}`) ? flow.name.slice(0, -`:${flow.port}`.length) : flow.name;
};
const destination = (flow) => `${flow.protocol}://${host(flow)}:${flow.port}`;
const path = (sample) => `${sample.method} ${sample.path}${sample.upgrade ? ` (upgrade ${sample.upgrade})` : ""}`;

// Asks for what changed; what is asked for follows from the filters. Says whether flows are remembered at all.
export async function news(identities) {
  const query = new URLSearchParams();
  if (byId("flow-verdict").value) query.set("verdict", byId("flow-verdict").value);
  // Half a name is looked for here.
  if (identities.includes(byId("flow-identity").value.trim())) query.set("identity", byId("flow-identity").value.trim());
  if (query.toString() !== flowQuery) {
    flowQuery = query.toString();
    flows = new Map();
    sequence = 0;
  }
  const asked = flowQuery;
  let enabled = false;
  query.set("limit", MOST);
  for (let more = true; more;) {
    // To begin with the last ones; then what changed since.
    const first = sequence === 0;
    if (first) query.set("newest", "true"); else query.delete("newest");
    query.set("after", sequence);
    const said = await json(`flows?${query}`);
    if (asked !== flowQuery) return said.enabled;
    enabled = said.enabled;
    if (said.sequence < sequence) {
      // Another control plane, or it began anew.
      flows = new Map();
      sequence = 0;
      continue;
    }
    if (first) said.flows.reverse();
    for (const flow of said.flows) {
      flows.delete(key(flow));
      flows.set(key(flow), flow);
    }
    for (const oldest of flows.keys()) {
      if (flows.size <= MOST) break;
      flows.delete(oldest);
    }
    more = !first && said.more && said.flows.length > 0;
    sequence = more ? said.flows.at(-1).sequence : said.sequence;
  }
  return enabled;
}

export const wereAsked = () => flowQuery !== null;

const isWanted = (flow) => {
  const identity = byId("flow-identity").value.trim();
  const wanted = byId("flow-text").value.trim().toLowerCase();
  return (!identity || flow.identity.includes(identity))
    && (!wanted || JSON.stringify([destination(flow), flow]).toLowerCase().includes(wanted));
};

const rows = new Map();

// `explain` is called with the flow whose button is pressed.
export function showFlows(enabled, explain) {
  byId("flows-off").hidden = enabled;
  byId("flow-table").hidden = !enabled;
  const all = [...flows.values()].filter(isWanted).reverse();
  byId("flow-count").textContent = enabled ? `${all.length}${flows.size >= MOST ? ", the last ones" : ""}` : "";
  const body = byId("flow-rows");
  const focus = document.activeElement;
  const wanted = all.map((flow) => {
    const known = rows.get(key(flow));
    if (known && known.sequence === flow.sequence) return known.row;
    const row = flowRow(flow, explain);
    if (known) {
      // The button stays: it may have the focus, and what it explains is the same.
      known.row.replaceChildren(...[...row.children].slice(0, -1), known.row.lastElementChild);
      known.sequence = flow.sequence;
      return known.row;
    }
    rows.set(key(flow), { sequence: flow.sequence, row });
    return row;
  });
  const keep = new Set(wanted);
  for (const [name, { row }] of rows) if (!keep.has(row)) rows.delete(name);
  for (const row of [...body.children]) if (!keep.has(row)) row.remove();
  wanted.forEach((row, index) => { if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null); });
  if (focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
  if (!wanted.length && enabled) body.replaceChildren(element("tr", {}, element("td", { colspan: "7", class: "quiet" }, "None yet: a connection is told of when it has ended.")));
}

const VERDICTS = { allow: "good", audit: "warning", deny: "bad" };
const toSecond = (time) => time.replace("T", " ").replace(/\.\d+Z$/, "Z");
const seconds = (time) => element("time", { datetime: time }, toSecond(time));

function flowRow(flow, explain) {
  const requests = flow.requests ?? [];
  return element("tr", { class: `flow ${flow.verdict}` },
    element("td", { class: "when" }, seconds(flow.lastSeen)),
    element("td", {}, element("strong", { class: VERDICTS[verdict(flow)] }, verdict(flow))),
    element("td", { class: "mono" }, flow.identity, element("div", { class: "quiet" }, flow.nodes.join(", "))),
    element("td", { class: "mono" }, destination(flow),
      flow.addresses.length && flow.name !== null ? element("div", { class: "quiet" }, `dialled ${flow.addresses.join(", ")}`) : null,
      requests.length ? element("div", { class: "quiet" }, requests.map(path).join(", "), flow.moreRequests ? ", …" : "") : null),
    element("td", {}, element("code", {}, flow.wouldRefuse ?? flow.reason),
      flow.policy ? element("div", { class: "quiet mono" }, `${flow.policy} ${flow.rule ?? ""}`) : null),
    element("td", {}, String(flow.count), element("div", { class: "quiet when" }, "since ", seconds(flow.firstSeen))),
    element("td", { class: "actions" }, element("button", { type: "button", "aria-label": `explain ${destination(flow)}`, onclick: () => explain(flow) }, "Explain")));
}

// A flow in a few words.
export const inWords = (flow) => `${verdict(flow)} ${flow.wouldRefuse ?? flow.reason}, ${count(flow.count, "time", "times")}, last at ${toSecond(flow.lastSeen)}`;

const verdict = (flow) => (flow.wouldRefuse ? "audit" : flow.verdict);

// The question that a flow was: the same address and name, so that the engine is asked what Envoy was.
export function question(flow) {
  const asked = new URLSearchParams({ identity: flow.identity });
  const address = flow.addresses[0];
  const isName = flow.name !== null && /^[\w.-]+(:\d+)?$/.test(flow.name);
  const dialled = address?.includes(":") ? `[${address}]` : address;
  const at = isName || !address ? host(flow) : dialled;
  const sample = flow.requests?.[0];
  const rest = flow.protocol === "http" && sample?.path.startsWith("/") ? sample.path : "";
  asked.set("to", `${flow.protocol}://${at}:${flow.port}${rest}`);
  if (address) asked.set("address", address);
  const why = flow.wouldRefuse ?? flow.reason;
  if (flow.protocol === "https") {
    if (flow.name === null) asked.set("noSni", "true");
    else if (!isName) asked.set("sni", flow.name);
    if (why === "ech-refused") asked.set("ech", "true");
  }
  if (flow.protocol === "http") {
    if (sample && sample.method !== "?") asked.set("method", sample.method);
    const headers = [];
    if (flow.name !== null && !isName) headers.push(`host: ${flow.name}`);
    if (sample?.upgrade) headers.push(`upgrade: ${sample.upgrade}`);
    if (headers.length) asked.set("headers", headers.join("\n"));
  }
  return asked;
}
