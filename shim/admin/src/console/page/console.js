// The console: asks the control plane that serves it, and shows what it says. It decides nothing itself.
// Whatever others wrote (names, paths, Envoy's words) is put into the page as text, never as HTML.
import { answer, element, problemText, term } from "./answer.js";
import { MOST, Refusal, byId, count, fail, json, named, place, show, text } from "./common.js";
import { inWords, news, question, showFlows, wereAsked } from "./flows.js";

const VIEWS = ["mesh", "proxies", "policies", "flows", "ask"];
const FIELDS = ["identity", "to", "address", "method", "headers", "sni", "clientHello"];
const SWITCHES = ["noSni", "ech"];
// How often the control plane is asked, in milliseconds; and how old its status may be, by what is looked at.
const PAUSE = 1000;
const AGE = { mesh: 1500, proxies: 1500, policies: 1500, flows: 5000, ask: 5000 };
// Longer links are cut by browsers and chats.
const LONGEST_FRAGMENT = 100_000;
const TOKEN = "osm-egress-console-token";

let settings = { writes: false, playground: false, flows: false, meshConfig: "" };
let status = null;
let statusAt = 0;
let statusTook = 0;

// Mesh.

const MODES = {
  enforce: "global egress is off: only what an Egress policy allows may leave",
  audit: "audit: everything may leave, and what would be refused is recorded",
  passthrough: "global egress is on: everything may leave, and policies are not looked at",
};

async function mesh() {
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
    ["health", status.serving && !status.sourceUnavailable ? "good" : "not good",
      status.serving ? (status.sourceUnavailable ? "proxies are served the last good state" : "proxies are served what was written") : "the first state is not complete yet",
      status.serving && !status.sourceUnavailable ? "good" : "bad"],
    ["objects", status.sourceUnavailable ? "not available" : "available", status.sourceUnavailable ?? `from a ${settings.source}`, status.sourceUnavailable ? "bad" : "good"],
    ["version", status.version, "of this control plane", ""],
    ["policies", egress, `${count(status.policies.filter((one) => condition(one, "Accepted")?.status !== "True").length, "is", "are")} not accepted`, ""],
    ["identities", Object.keys(status.identities).length, "that a policy or an annotation names", ""],
    ["proxies", status.proxies.length, `${up} up to date`, up < status.proxies.length ? "bad" : ""],
    ["Envoy", versions.join(", ") || "-", "versions of proxies", ""],
    ["streams refused", refused, "for want of good credentials, since the start", refused ? "warning" : ""],
    ["rejected", rejected, "responses that proxies did not take, since the start", rejected ? "warning" : ""],
    ["flows", settings.flows ? sums.osm_egress_flows ?? 0 : "off", settings.flows ? `remembered, ${sums.osm_egress_flows_dropped_total ?? 0} forgotten for others` : "osm-egress serve --flow-log has sidecars tell of them", ""],
  ];
  show("facts", facts, () => facts.flatMap(([name, value, more, kind]) =>
    term(name, element("strong", { class: kind, id: `fact-${name.replaceAll(" ", "-")}` }, String(value)), " ", element("span", { class: "quiet" }, more))));
  const some = status.diagnostics.slice(0, MOST);
  byId("problem-count").textContent = status.diagnostics.length ? String(status.diagnostics.length) : "";
  show("problems", some, () => some.length ? some.map((problem) => element("li", {},
    place(problem), " ", element("strong", { class: problem.severity }, problem.severity), " ",
    problem.object ? element("span", { class: "mono" }, `${named(problem.object)} `) : null, ...problemText(problem)))
    : [element("li", { class: "quiet" }, "none")]);
  const on = status.meshMode === "passthrough";
  byId("switching").hidden = !settings.writes;
  byId("switch").textContent = on ? "Switch global egress off" : "Switch global egress on";
  byId("switch-about").textContent = `Writes spec.traffic.enableEgress: ${!on} to the MeshConfig ${settings.meshConfig}.`;
}

// Proxies.

const isUpToDate = (proxy) => proxy.documentAcknowledged === proxy.documentSent;

function proxies() {
  const late = status.proxies.filter((proxy) => !isUpToDate(proxy)).length;
  byId("proxy-count").textContent = `${status.proxies.length} connected, ${late} not up to date`;
  const some = status.proxies.slice(0, MOST);
  show("proxy-rows", some, () => some.length ? some.map((proxy) => element("tr", {},
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
const KINDS = { True: "good", False: "bad", Unknown: "warning" };

function policies() {
  const conditions = new Map(status.policies.map((one) => [`Egress ${one.namespace}/${one.name}`, one]));
  const objects = status.objects.map((object) => {
    const name = named(object.object);
    const told = conditions.get(name);
    conditions.delete(name);
    return { name, kind: object.object.kind, object, told };
  });
  // What cannot be read at all is no object, and has a condition.
  for (const [name, told] of conditions) objects.push({ name, kind: "Egress", object: { rules: 0, accepted: false, diagnostics: [] }, told });
  const wanted = byId("policy-text").value.trim().toLowerCase();
  const rank = (one) => (POLICY_KINDS.includes(one.kind) ? POLICY_KINDS.indexOf(one.kind) : POLICY_KINDS.length);
  const all = objects
    .filter((one) => POLICY_KINDS.includes(one.kind) || one.object.diagnostics.length)
    .filter((one) => !wanted || JSON.stringify([one.name, one.object, one.told]).toLowerCase().includes(wanted))
    .sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
  byId("policy-count").textContent = all.length > MOST ? `the first ${MOST} of ${all.length}` : String(all.length);
  const some = all.slice(0, MOST);
  show("policy-rows", some, () => some.length ? some.map(({ name, kind, object, told }) => {
    const badges = told ? told.conditions : [{ type: "Accepted", status: object.accepted ? "True" : "False", reason: "", message: "" }];
    return element("li", {},
      element("strong", { class: "mono" }, name), " ", place(object), " ",
      kind === "Egress" ? element("span", { class: "quiet" }, count(object.rules, "rule", "rules")) : null,
      element("div", { class: "badges" }, ...badges.map((one) => element("span", { class: one.type === "Conflicts" ? "warning" : KINDS[one.status] ?? "" },
        one.type === "Programmed" ? `Programmed ${told.programmed}` : `${one.type} ${one.status}`,
        one.reason && one.reason !== one.type ? ` ${one.reason}` : "",
        one.type === "Programmed" ? element("span", { class: "quiet" }, told.ofAll ? " of all control planes" : " of this control plane") : null))),
      ...(told ? told.conditions.filter((one) => one.type !== "Accepted" && one.reason !== one.type).map((one) => element("div", { class: "quiet" }, `${one.type}: ${one.message}`)) : []),
      told && !object.diagnostics.length && condition(told, "Accepted").status !== "True" ? element("div", { class: "bad" }, condition(told, "Accepted").message) : null,
      object.diagnostics.length ? element("ul", {}, ...object.diagnostics.map((problem) => element("li", {},
        element("strong", { class: problem.severity }, problem.severity), " ", ...problemText(problem)))) : null);
  }) : [element("li", { class: "quiet" }, "There is none.")]);
}

// Asking.

// The flow that is explained, as it was seen.
let seen = { hash: "", said: "" };

function explain(flow) {
  location.hash = `#ask?${question(flow)}`;
  seen = { hash: location.hash, said: `Seen as ${inWords(flow)}. What follows is what the policy says now.` };
}

function fillIn(asked) {
  for (const field of FIELDS) byId(field).value = asked.get(field) ?? "";
  for (const field of SWITCHES) byId(field).checked = asked.get(field) === "true";
  byId("more").open ||= ["method", "headers", "sni", "noSni", "ech", "clientHello"].some((field) => asked.get(field));
}

function fields() {
  const asked = new URLSearchParams();
  for (const field of FIELDS) if (byId(field).value.trim()) asked.set(field, byId(field).value);
  for (const field of SWITCHES) if (byId(field).checked) asked.set(field, "true");
  return asked;
}

let asking = 0;

async function evaluate() {
  const asked = fields();
  const mine = ++asking;
  let said;
  try {
    said = await json(`explain?${asked}`);
  } catch (error) {
    if (mine !== asking) return;
    byId("answer").replaceChildren(element("p", { class: "bad", id: "mistake" }, error.message));
    byId("suggesting").hidden = true;
    byId("open-playground").hidden = true;
    return;
  }
  if (mine !== asking) return;
  byId("answer").replaceChildren(...answer(said, place));
  const { report } = said;
  const refused = report.verdict === "deny" || report.wouldRefuse;
  await Promise.all([suggest(refused ? asked : null), linkPlayground(report.identity, asked)]);
}

// The playground takes what it shows from the part of its address behind `#`.
async function linkPlayground(identity, asked) {
  const link = byId("open-playground");
  link.hidden = true;
  if (!settings.playground) return;
  const connection = { source: identity, path: "" };
  for (const field of FIELDS) if (field !== "identity") connection[field] = asked.get(field) ?? "";
  for (const field of SWITCHES) connection[field] = asked.get(field) === "true";
  const manifests = await text(`console/manifests?${new URLSearchParams({ identity })}`);
  const bytes = new TextEncoder().encode(JSON.stringify({ manifests, connection, cases: [], changed: "" }));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  const fragment = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  link.href = fragment.length > LONGEST_FRAGMENT ? "../playground/" : `../playground/#${fragment}`;
  link.hidden = false;
}

// The question whose destination is suggested: a policy that is made may allow that, and nothing else.
let suggestedFor = null;

async function suggest(asked) {
  byId("suggesting").hidden = true;
  confirmPolicy(null);
  if (!asked || !settings.flows) return;
  const mine = asking;
  const said = await json(`console/suggestion?${asked}`);
  // Another question may have been asked meanwhile.
  if (mine !== asking) return;
  suggestedFor = { ...Object.fromEntries(asked), ...Object.fromEntries(SWITCHES.map((field) => [field, asked.get(field) === "true"])) };
  byId("suggesting").hidden = false;
  byId("suggested-for").textContent = `${said.identity} to ${said.destination}`;
  byId("suggested-others").textContent = said.others ? `${count(said.others, "other destination was", "other destinations were")} refused: explain each, or see osm-egress suggest` : "";
  byId("suggested").value = said.yaml;
  byId("suggested").readOnly = !settings.writes;
  byId("applying").hidden = !settings.writes || said.empty;
  byId("apply-said").textContent = "";
  byId("suggest-said").textContent = said.dropped ? `${said.dropped} flows were evicted to make room and are missing here` : "";
}

async function copy() {
  const field = byId("suggested");
  field.focus();
  field.select();
  let done;
  try {
    // Browsers have the first for https and localhost only.
    done = navigator.clipboard ? (await navigator.clipboard.writeText(field.value), true) : document.execCommand("copy");
  } catch {
    done = false;
  }
  byId("suggest-said").textContent = done ? "copied" : "the browser does not let it be copied: it is selected, press Ctrl+C";
  if (done) byId("copy").focus();
}

// Writing.

async function write(path, body) {
  const token = byId("token").value.trim();
  if (!token) {
    byId("token").focus();
    throw new Refusal(401, "fill in the token of the console, below");
  }
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  try {
    const said = JSON.parse(await text(path, { method: "POST", headers, body: JSON.stringify(body) }));
    sessionStorage.setItem(TOKEN, token);
    return said.written.join(", ");
  } catch (error) {
    if (error.code === 401) forget();
    throw error;
  }
}

function forget() {
  sessionStorage.removeItem(TOKEN);
  byId("token").value = "";
}

async function act(buttons, said, path, body) {
  for (const button of buttons) button.disabled = true;
  said.className = "quiet";
  said.textContent = "…";
  try {
    said.textContent = `written: ${await write(path, body)}`;
    said.className = "good";
  } catch (error) {
    said.textContent = error.message;
    said.className = "bad";
  }
  for (const button of buttons) button.disabled = false;
  statusAt = 0;
  refresh();
}

// What is asked to be confirmed; what is confirmed is that, whatever the mode has become meanwhile.
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
  act([byId("switch")], byId("switch-said"), "console/global-egress", { enabled });
}

// The policy that is asked to be confirmed, as it is shown then.
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
  act([byId("apply")], byId("apply-said"), "console/policies", { question: suggestedFor, yaml });
}

// The page.

let identities = [];

function view() {
  const name = location.hash.slice(1).split("?")[0];
  return VIEWS.includes(name) ? name : "mesh";
}

async function look() {
  const begun = Date.now();
  status = await json("status");
  statusAt = Date.now();
  statusTook = statusAt - begun;
  identities = [...new Set([...Object.keys(status.identities), ...status.proxies.map((proxy) => proxy.identity)])].sort();
  show("identities", identities, () => identities.map((name) => element("option", { value: name })));
}

async function refresh() {
  try {
    const now = view();
    // A large mesh is not asked all the time.
    if (!status || Date.now() - statusAt >= Math.max(AGE[now], 20 * statusTook)) await look();
    if (now === "mesh") await mesh();
    if (now === "proxies") proxies();
    if (now === "policies") policies();
    if (now === "flows") {
      if (byId("flow-live").checked || !wereAsked()) settings.flows = await news(identities);
      showFlows(settings.flows, explain);
    }
    fail("");
  } catch (error) {
    fail(error instanceof Refusal ? error.message : "The control plane does not answer. This is what it said last.");
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
  byId("seen").textContent = seen.hash === location.hash ? seen.said : "";
  const [, asked] = location.hash.split("?");
  if (now === "ask" && asked) {
    fillIn(new URLSearchParams(asked));
    evaluate().catch((error) => fail(error.message));
  }
  refresh();
}

async function filterFlows() {
  try {
    if (settings.flows) settings.flows = await news(identities);
    showFlows(settings.flows, explain);
  } catch (error) {
    fail(error.message);
  }
}

async function start() {
  try {
    settings = { ...settings, ...await json("console/settings") };
  } catch (error) {
    fail(error.message);
  }
  byId("playground").hidden = !settings.playground;
  byId("token").value = sessionStorage.getItem(TOKEN) ?? "";
  byId("policy-text").addEventListener("input", () => status && policies());
  for (const id of ["flow-verdict", "flow-identity", "flow-text"]) byId(id).addEventListener("input", filterFlows);
  byId("flow-live").addEventListener("change", refresh);
  byId("question").addEventListener("submit", (event) => {
    event.preventDefault();
    const hash = `#ask?${fields()}`;
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
    setTimeout(again, PAUSE);
  };
  setTimeout(again, PAUSE);
}

start();
