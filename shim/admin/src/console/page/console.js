// The console: queries its control plane and renders the responses. It decides nothing itself.
// Untrusted values (names, paths, Envoy's messages) are inserted as text, never as HTML.
import { answer, element, problemText, term } from "./answer.js";
import { MAX_ROWS, ResponseError, byId, formatCount, formatLocation, formatObject, json, render, showFailure, text } from "./common.js";
import { describeFlow, explainQuery, fetchFlows, showFlows, wereFetched } from "./flows.js";

const VIEWS = ["mesh", "proxies", "policies", "flows", "ask"];
const FIELDS = ["identity", "to", "address", "method", "headers", "sni", "clientHello"];
const SWITCHES = ["noSni", "ech"];
// Polling interval in milliseconds, and maximum age of the status by view.
const POLL_INTERVAL = 1000;
const MAX_STATUS_AGE = { mesh: 1500, proxies: 1500, policies: 1500, flows: 5000, ask: 5000 };
// Browsers and chats truncate longer links.
const MAX_FRAGMENT_LENGTH = 100_000;
const TOKEN_STORAGE_KEY = "osm-egress-console-token";

let settings = { writes: false, playground: false, flows: false, meshConfig: "" };
let status = null;
let statusAt = 0;
let statusTook = 0;

// Mesh.

const MODES = {
  enforce: "global egress is off: only traffic that an Egress policy allows leaves the mesh",
  audit: "audit: all egress is allowed, and what enforcement would deny is recorded",
  passthrough: "global egress is on: all egress is allowed, and policies do not apply",
};

async function renderMesh() {
  const sums = {};
  for (const line of (await text("metrics")).split("\n")) {
    const found = line.match(/^(osm_egress_\w+)(?:\{.*\})? (\d+)/);
    if (found) sums[found[1]] = (sums[found[1]] ?? 0) + Number(found[2]);
  }
  const up = status.proxies.filter(isUpToDate).length;
  const egress = status.policies.length;
  const versions = [...new Set(status.proxies.map((proxy) => proxy.envoy || "unknown"))].sort();
  const refused = sums.osm_egress_xds_refused_total ?? 0;
  const rejected = sums.osm_egress_xds_rejected_total ?? 0;
  const facts = [
    ["mode", status.meshMode, MODES[status.meshMode] ?? "", status.meshMode === "passthrough" ? "warning" : ""],
    ["health", status.serving && !status.sourceUnavailable ? "good" : "degraded",
      status.serving ? (status.sourceUnavailable ? "proxies are served the last good state" : "proxies are served the current state") : "the first state is not complete yet",
      status.serving && !status.sourceUnavailable ? "good" : "bad"],
    ["objects", status.sourceUnavailable ? "not available" : "available", status.sourceUnavailable ?? `from a ${settings.source}`, status.sourceUnavailable ? "bad" : "good"],
    ["version", status.version, "of this control plane", ""],
    ["policies", egress, `${formatCount(status.policies.filter((one) => condition(one, "Accepted")?.status !== "True").length, "is", "are")} not accepted`, ""],
    ["identities", Object.keys(status.identities).length, "named by a policy or an annotation", ""],
    ["proxies", status.proxies.length, `${up} up to date`, up < status.proxies.length ? "bad" : ""],
    ["Envoy", versions.join(", ") || "-", "proxy versions", ""],
    ["streams refused", refused, "for lack of valid credentials, since the start", refused ? "warning" : ""],
    ["rejected", rejected, "responses that proxies rejected, since the start", rejected ? "warning" : ""],
    ["flows", settings.flows ? sums.osm_egress_flows ?? 0 : "off", settings.flows ? `in the flow table, ${sums.osm_egress_flows_dropped_total ?? 0} evicted` : "start the control plane with osm-egress serve --flow-log to record them", ""],
  ];
  render("facts", facts, () => facts.flatMap(([name, value, more, kind]) =>
    term(name, element("strong", { class: kind, id: `fact-${name.replaceAll(" ", "-")}` }, String(value)), " ", element("span", { class: "quiet" }, more))));
  const some = status.diagnostics.slice(0, MAX_ROWS);
  byId("problem-count").textContent = status.diagnostics.length ? String(status.diagnostics.length) : "";
  render("problems", some, () => some.length ? some.map((problem) => element("li", {},
    formatLocation(problem), " ", element("strong", { class: problem.severity }, problem.severity), " ",
    problem.object ? element("span", { class: "mono" }, `${formatObject(problem.object)} `) : null, ...problemText(problem)))
    : [element("li", { class: "quiet" }, "none")]);
  const on = status.meshMode === "passthrough";
  byId("switching").hidden = !settings.writes;
  byId("switch").textContent = on ? "Switch global egress off" : "Switch global egress on";
  byId("switch-about").textContent = `Writes spec.traffic.enableEgress: ${!on} to the MeshConfig ${settings.meshConfig}.`;
}

// Proxies.

const isUpToDate = (proxy) => proxy.documentAcknowledged === proxy.documentSent;

function renderProxies() {
  const late = status.proxies.filter((proxy) => !isUpToDate(proxy)).length;
  byId("proxy-count").textContent = `${status.proxies.length} connected, ${late} not up to date`;
  const some = status.proxies.slice(0, MAX_ROWS);
  render("proxy-rows", some, () => some.length ? some.map((proxy) => element("tr", {},
    element("td", { class: "mono" }, proxy.node),
    element("td", { class: "mono" }, proxy.identity),
    element("td", {}, proxy.envoy || "-", element("div", { class: "quiet" }, proxy.protocol)),
    element("td", {},
      element("strong", { class: isUpToDate(proxy) ? "good" : "bad" }, isUpToDate(proxy) ? "up to date" : "NOT up to date"),
      element("div", { class: "quiet mono" }, proxy.documentAcknowledged ?? "none"),
      ...proxy.warnings.map((warning) => element("div", { class: "warning" }, warning))),
    element("td", {}, ...Object.entries(proxy.types).map(([kind, of]) => element("div", {},
      element("code", {}, kind), " ", of.acknowledged ?? "none", of.sent && of.sent !== of.acknowledged ? ` (sent ${of.sent})` : "",
      of.rejected ? element("div", { class: "bad" }, `refused ${of.rejected.version}: ${of.rejected.error}`) : null)))))
    : [element("tr", {}, element("td", { colspan: "5", class: "quiet" }, "No proxy is connected."))]);
}

// Policies.

const POLICY_KINDS = ["Egress", "HTTPRouteGroup", "UpstreamTrafficSetting", "MeshConfig", "TrafficTarget"];
const condition = (policy, type) => policy.conditions.find((one) => one.type === type);
const STATUS_CLASSES = { True: "good", False: "bad", Unknown: "warning" };

function renderPolicies() {
  const conditions = new Map(status.policies.map((one) => [`Egress ${one.namespace}/${one.name}`, one]));
  const objects = status.objects.map((object) => {
    const name = formatObject(object.object);
    const report = conditions.get(name);
    conditions.delete(name);
    return { name, kind: object.object.kind, object, report };
  });
  // An unreadable policy is not an object, but has conditions.
  for (const [name, report] of conditions) objects.push({ name, kind: "Egress", object: { rules: 0, accepted: false, diagnostics: [] }, report });
  const wanted = byId("policy-text").value.trim().toLowerCase();
  const rank = (one) => (POLICY_KINDS.includes(one.kind) ? POLICY_KINDS.indexOf(one.kind) : POLICY_KINDS.length);
  const all = objects
    .filter((one) => POLICY_KINDS.includes(one.kind) || one.object.diagnostics.length)
    .filter((one) => !wanted || JSON.stringify([one.name, one.object, one.report]).toLowerCase().includes(wanted))
    .sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
  byId("policy-count").textContent = all.length > MAX_ROWS ? `the first ${MAX_ROWS} of ${all.length}` : String(all.length);
  const some = all.slice(0, MAX_ROWS);
  render("policy-rows", some, () => some.length ? some.map(({ name, kind, object, report }) => {
    const badges = report ? report.conditions : [{ type: "Accepted", status: object.accepted ? "True" : "False", reason: "", message: "" }];
    return element("li", {},
      element("strong", { class: "mono" }, name), " ", formatLocation(object), " ",
      kind === "Egress" ? element("span", { class: "quiet" }, formatCount(object.rules, "rule", "rules")) : null,
      element("div", { class: "badges" }, ...badges.map((one) => element("span", { class: one.type === "Conflicts" ? "warning" : STATUS_CLASSES[one.status] ?? "" },
        one.type === "Programmed" ? `Programmed ${report.programmed}` : `${one.type} ${one.status}`,
        one.reason && one.reason !== one.type ? ` ${one.reason}` : "",
        one.type === "Programmed" ? element("span", { class: "quiet" }, report.ofAll ? " of all control planes" : " of this control plane") : null))),
      ...(report ? report.conditions.filter((one) => one.type !== "Accepted" && one.reason !== one.type).map((one) => element("div", { class: "quiet" }, `${one.type}: ${one.message}`)) : []),
      report && !object.diagnostics.length && condition(report, "Accepted").status !== "True" ? element("div", { class: "bad" }, condition(report, "Accepted").message) : null,
      object.diagnostics.length ? element("ul", {}, ...object.diagnostics.map((problem) => element("li", {},
        element("strong", { class: problem.severity }, problem.severity), " ", ...problemText(problem)))) : null);
  }) : [element("li", { class: "quiet" }, "No policies.")]);
}

// Explain.

// The flow that is explained, as it was recorded.
let seen = { hash: "", message: "" };

function explain(flow) {
  location.hash = `#ask?${explainQuery(flow)}`;
  seen = { hash: location.hash, message: `Seen as ${describeFlow(flow)}. The answer below is that of the current policy.` };
}

function fillForm(parameters) {
  for (const field of FIELDS) byId(field).value = parameters.get(field) ?? "";
  for (const field of SWITCHES) byId(field).checked = parameters.get(field) === "true";
  byId("more").open ||= ["method", "headers", "sni", "noSni", "ech", "clientHello"].some((field) => parameters.get(field));
}

function readForm() {
  const parameters = new URLSearchParams();
  for (const field of FIELDS) if (byId(field).value.trim()) parameters.set(field, byId(field).value);
  for (const field of SWITCHES) if (byId(field).checked) parameters.set(field, "true");
  return parameters;
}

let asking = 0;

async function evaluate() {
  const parameters = readForm();
  const mine = ++asking;
  let response;
  try {
    response = await json(`explain?${parameters}`);
  } catch (error) {
    if (mine !== asking) return;
    byId("answer").replaceChildren(element("p", { class: "bad", id: "mistake" }, error.message));
    byId("suggesting").hidden = true;
    byId("open-playground").hidden = true;
    return;
  }
  if (mine !== asking) return;
  byId("answer").replaceChildren(...answer(response, formatLocation));
  const { report } = response;
  const refused = report.verdict === "deny" || report.wouldRefuse;
  await Promise.all([suggest(refused ? parameters : null), linkPlayground(report.identity, parameters)]);
}

// The playground reads its state from the fragment of its URL.
async function linkPlayground(identity, parameters) {
  const link = byId("open-playground");
  link.hidden = true;
  if (!settings.playground) return;
  const connection = { source: identity, path: "" };
  for (const field of FIELDS) if (field !== "identity") connection[field] = parameters.get(field) ?? "";
  for (const field of SWITCHES) connection[field] = parameters.get(field) === "true";
  const manifests = await text(`console/manifests?${new URLSearchParams({ identity })}`);
  const bytes = new TextEncoder().encode(JSON.stringify({ manifests, connection, cases: [], changed: "" }));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  const fragment = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  link.href = fragment.length > MAX_FRAGMENT_LENGTH ? "../playground/" : `../playground/#${fragment}`;
  link.hidden = false;
}

// The query whose destination is suggested: a created policy may allow only that destination.
let suggestedFor = null;

async function suggest(parameters) {
  byId("suggesting").hidden = true;
  confirmPolicy(null);
  if (!parameters || !settings.flows) return;
  const mine = asking;
  const response = await json(`console/suggestion?${parameters}`);
  // Another query may have been sent meanwhile.
  if (mine !== asking) return;
  suggestedFor = { ...Object.fromEntries(parameters), ...Object.fromEntries(SWITCHES.map((field) => [field, parameters.get(field) === "true"])) };
  byId("suggesting").hidden = false;
  byId("suggested-for").textContent = `${response.identity} to ${response.destination}`;
  byId("suggested-others").textContent = response.others ? `${formatCount(response.others, "other destination was", "other destinations were")} refused: explain them one by one, or run osm-egress suggest` : "";
  byId("suggested").value = response.yaml;
  byId("suggested").readOnly = !settings.writes;
  byId("applying").hidden = !settings.writes || response.empty;
  byId("apply-said").textContent = "";
  byId("suggest-said").textContent = response.dropped ? `${response.dropped} flows were evicted to make room and are missing here` : "";
}

async function copy() {
  const field = byId("suggested");
  field.focus();
  field.select();
  let done;
  try {
    // Browsers offer the clipboard API for https and localhost only.
    done = navigator.clipboard ? (await navigator.clipboard.writeText(field.value), true) : document.execCommand("copy");
  } catch {
    done = false;
  }
  byId("suggest-said").textContent = done ? "copied" : "the browser blocked copying: the text is selected, press Ctrl+C";
  if (done) byId("copy").focus();
}

// Writing.

async function write(path, body) {
  const token = byId("token").value.trim();
  if (!token) {
    byId("token").focus();
    throw new ResponseError(401, "fill in the token of the console below");
  }
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  try {
    const response = JSON.parse(await text(path, { method: "POST", headers, body: JSON.stringify(body) }));
    sessionStorage.setItem(TOKEN_STORAGE_KEY, token);
    return response.written.join(", ");
  } catch (error) {
    if (error.code === 401) forget();
    throw error;
  }
}

function forget() {
  sessionStorage.removeItem(TOKEN_STORAGE_KEY);
  byId("token").value = "";
}

async function submitWrite(buttons, output, path, body) {
  for (const button of buttons) button.disabled = true;
  output.className = "quiet";
  output.textContent = "…";
  try {
    output.textContent = `written: ${await write(path, body)}`;
    output.className = "good";
  } catch (error) {
    output.textContent = error.message;
    output.className = "bad";
  }
  for (const button of buttons) button.disabled = false;
  statusAt = 0;
  refresh();
}

// The value to be confirmed. It is written even if the mode has changed meanwhile.
let wanted = null;

function confirmSwitch(enabled) {
  wanted = enabled;
  const asks = enabled !== null;
  byId("switch-yes").hidden = byId("switch-no").hidden = !asks;
  byId("switch-yes").textContent = enabled ? "Yes, switch it on" : "Yes, switch it off";
  byId("switch").disabled = asks;
  if (asks) byId("switch-no").focus();
}

function switchEgress() {
  const enabled = wanted;
  confirmSwitch(null);
  submitWrite([byId("switch")], byId("switch-said"), "console/global-egress", { enabled });
}

// The policy to be confirmed, as shown.
let policyShown = null;

function confirmPolicy(yaml) {
  policyShown = yaml;
  const asks = yaml !== null;
  byId("confirming").hidden = !asks;
  byId("apply").disabled = asks;
  byId("confirm-text").textContent = yaml ?? "";
  byId("confirm-for").textContent = byId("suggested-for").textContent;
  if (asks) byId("apply-no").focus();
}

function applyPolicy() {
  const yaml = policyShown;
  confirmPolicy(null);
  submitWrite([byId("apply")], byId("apply-said"), "console/policies", { question: suggestedFor, yaml });
}

// The page.

let identities = [];

function view() {
  const name = location.hash.slice(1).split("?")[0];
  return VIEWS.includes(name) ? name : "mesh";
}

async function loadStatus() {
  const begun = Date.now();
  status = await json("status");
  statusAt = Date.now();
  statusTook = statusAt - begun;
  identities = [...new Set([...Object.keys(status.identities), ...status.proxies.map((proxy) => proxy.identity)])].sort();
  render("identities", identities, () => identities.map((name) => element("option", { value: name })));
}

async function refresh() {
  try {
    const now = view();
    // The status of a large mesh is not fetched all the time.
    if (!status || Date.now() - statusAt >= Math.max(MAX_STATUS_AGE[now], 20 * statusTook)) await loadStatus();
    if (now === "mesh") await renderMesh();
    if (now === "proxies") renderProxies();
    if (now === "policies") renderPolicies();
    if (now === "flows") {
      if (byId("flow-live").checked || !wereFetched()) settings.flows = await fetchFlows(identities);
      showFlows(settings.flows, explain);
    }
    showFailure("");
  } catch (error) {
    showFailure(error instanceof ResponseError ? error.message : "The control plane does not answer. This page shows its last response.");
  }
  document.documentElement.dataset.ready = view();
}

function route() {
  const now = view();
  for (const name of VIEWS) byId(name).hidden = name !== now;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${now}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  byId("writing").hidden = !settings.writes || !["mesh", "ask"].includes(now);
  byId("seen").textContent = seen.hash === location.hash ? seen.message : "";
  const [, parameters] = location.hash.split("?");
  if (now === "ask" && parameters) {
    fillForm(new URLSearchParams(parameters));
    evaluate().catch((error) => showFailure(error.message));
  }
  refresh();
}

async function filterFlows() {
  try {
    if (settings.flows) settings.flows = await fetchFlows(identities);
    showFlows(settings.flows, explain);
  } catch (error) {
    showFailure(error.message);
  }
}

async function start() {
  try {
    settings = { ...settings, ...await json("console/settings") };
  } catch (error) {
    showFailure(error.message);
  }
  byId("playground").hidden = !settings.playground;
  byId("token").value = sessionStorage.getItem(TOKEN_STORAGE_KEY) ?? "";
  byId("policy-text").addEventListener("input", () => status && renderPolicies());
  for (const id of ["flow-verdict", "flow-identity", "flow-text"]) byId(id).addEventListener("input", filterFlows);
  byId("flow-live").addEventListener("change", refresh);
  byId("question").addEventListener("submit", (event) => {
    event.preventDefault();
    const hash = `#ask?${readForm()}`;
    if (location.hash === hash) route(); else location.hash = hash;
  });
  byId("token-form").addEventListener("submit", (event) => event.preventDefault());
  byId("forget").addEventListener("click", forget);
  byId("copy").addEventListener("click", copy);
  byId("apply").addEventListener("click", () => confirmPolicy(byId("suggested").value));
  byId("suggested").addEventListener("input", () => confirmPolicy(null));
  byId("apply-no").addEventListener("click", () => { confirmPolicy(null); byId("apply").focus(); });
  byId("apply-yes").addEventListener("click", applyPolicy);
  byId("switch").addEventListener("click", () => confirmSwitch(status.meshMode !== "passthrough"));
  byId("switch-no").addEventListener("click", () => { confirmSwitch(null); byId("switch").focus(); });
  byId("switch-yes").addEventListener("click", switchEgress);
  addEventListener("hashchange", route);
  route();
  const again = async () => {
    if (!document.hidden) await refresh();
    setTimeout(again, POLL_INTERVAL);
  };
  setTimeout(again, POLL_INTERVAL);
}

start();
