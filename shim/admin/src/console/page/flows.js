// The flows view, which follows the flow table.
import { element } from "./answer.js";
import { MAX_ROWS, byId, formatCount, json } from "./common.js";

// Flows by their key, the sequence number of the last change, and the current query.
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

// Fetches changed flows for the current filters. Returns true if the control plane records flows.
export async function fetchFlows(identities) {
  const query = new URLSearchParams();
  if (byId("flow-verdict").value) query.set("verdict", byId("flow-verdict").value);
  // An incomplete identity is only filtered in the page.
  if (identities.includes(byId("flow-identity").value.trim())) query.set("identity", byId("flow-identity").value.trim());
  if (query.toString() !== flowQuery) {
    flowQuery = query.toString();
    flows = new Map();
    sequence = 0;
  }
  const parameters = flowQuery;
  let enabled = false;
  query.set("limit", MAX_ROWS);
  for (let more = true; more;) {
    // The first request fetches the newest flows, later ones the changes since.
    const first = sequence === 0;
    if (first) query.set("newest", "true"); else query.delete("newest");
    query.set("after", sequence);
    const page = await json(`flows?${query}`);
    if (parameters !== flowQuery) return page.enabled;
    enabled = page.enabled;
    if (page.sequence < sequence) {
      // Another control plane answers, or it was restarted.
      flows = new Map();
      sequence = 0;
      continue;
    }
    if (first) page.flows.reverse();
    for (const flow of page.flows) {
      flows.delete(key(flow));
      flows.set(key(flow), flow);
    }
    for (const oldest of flows.keys()) {
      if (flows.size <= MAX_ROWS) break;
      flows.delete(oldest);
    }
    more = !first && page.more && page.flows.length > 0;
    sequence = more ? page.flows.at(-1).sequence : page.sequence;
  }
  return enabled;
}

export const wereFetched = () => flowQuery !== null;

const matchesFilter = (flow) => {
  const identity = byId("flow-identity").value.trim();
  const wanted = byId("flow-text").value.trim().toLowerCase();
  return (!identity || flow.identity.includes(identity))
    && (!wanted || JSON.stringify([destination(flow), flow]).toLowerCase().includes(wanted));
};

const rows = new Map();

// Renders the flows. `explain` is called with the flow whose button is pressed.
export function showFlows(enabled, explain) {
  byId("flows-off").hidden = enabled;
  byId("flow-table").hidden = !enabled;
  const all = [...flows.values()].filter(matchesFilter).reverse();
  byId("flow-count").textContent = enabled ? `${all.length}${flows.size >= MAX_ROWS ? ", the last ones" : ""}` : "";
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
  if (!wanted.length && enabled) body.replaceChildren(element("tr", {}, element("td", { colspan: "7", class: "quiet" }, "No flows yet: a flow appears within a second after its connection closes.")));
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
      flow.addresses.length && flow.name !== null ? element("div", { class: "quiet" }, `original destination ${flow.addresses.join(", ")}`) : null,
      requests.length ? element("div", { class: "quiet" }, requests.map(path).join(", "), flow.moreRequests ? ", …" : "") : null),
    element("td", {}, element("code", {}, flow.wouldRefuse ?? flow.reason),
      flow.policy ? element("div", { class: "quiet mono" }, `${flow.policy} ${flow.rule ?? ""}`) : null),
    element("td", {}, String(flow.count), element("div", { class: "quiet when" }, "since ", seconds(flow.firstSeen))),
    element("td", { class: "actions" }, element("button", { type: "button", "aria-label": `explain ${destination(flow)}`, onclick: () => explain(flow) }, "Explain")));
}

// Formats a flow as a short sentence.
export const describeFlow = (flow) => `${verdict(flow)} ${flow.wouldRefuse ?? flow.reason}, ${formatCount(flow.count, "time", "times")}, last at ${toSecond(flow.lastSeen)}`;

const verdict = (flow) => (flow.wouldRefuse ? "audit" : flow.verdict);

// Builds the explain query of a flow, with the same address and name that Envoy saw.
export function explainQuery(flow) {
  const parameters = new URLSearchParams({ identity: flow.identity });
  const address = flow.addresses[0];
  const isName = flow.name !== null && /^[\w.-]+(:\d+)?$/.test(flow.name);
  const dialled = address?.includes(":") ? `[${address}]` : address;
  const at = isName || !address ? host(flow) : dialled;
  const sample = flow.requests?.[0];
  const rest = flow.protocol === "http" && sample?.path.startsWith("/") ? sample.path : "";
  parameters.set("to", `${flow.protocol}://${at}:${flow.port}${rest}`);
  if (address) parameters.set("address", address);
  const why = flow.wouldRefuse ?? flow.reason;
  if (flow.protocol === "https") {
    if (flow.name === null) parameters.set("noSni", "true");
    else if (!isName) parameters.set("sni", flow.name);
    if (why === "ech-refused") parameters.set("ech", "true");
  }
  if (flow.protocol === "http") {
    if (sample && sample.method !== "?") parameters.set("method", sample.method);
    const headers = [];
    if (flow.name !== null && !isName) headers.push(`host: ${flow.name}`);
    if (sample?.upgrade) headers.push(`upgrade: ${sample.upgrade}`);
    if (headers.length) parameters.set("headers", headers.join("\n"));
  }
  return parameters;
}
