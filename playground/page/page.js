// The page of the playground: it reads the fields, calls the module and shows the results. It decides nothing itself.
// Input from manifests and from the address bar is put into the page as text, never as HTML.
import init, * as engine from "./egress_playground.js";
import { answer as parts, element } from "./answer.js";
import { Editor } from "./editor.js";
import { EXAMPLES } from "./examples.js";

const byId = (id) => document.getElementById(id);
const FIELDS = ["identity", "to", "address", "method", "path", "headers", "sni", "clientHello"];
const SWITCHES = ["noSni", "ech"];
// Browsers and chat programs cut longer links.
const LONGEST_FRAGMENT = 100_000;

// The state: the fields and the test cases. All results follow from it.
let cases = [];
// The results of the test cases, or null.
let outcomes = null;
let identities = [];
let broken = false;

// Screen readers announce a changed text only once.
function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function fail(text) {
  byId("failure").textContent = text;
  byId("failure").hidden = false;
}

// A trap leaves the module unusable.
function ask(question, ...texts) {
  try {
    return JSON.parse(engine[question](...texts));
  } catch (error) {
    broken = true;
    fail(`The module stopped: ${error}. Load the page again.`);
    return { error: "no answer" };
  }
}

const place = (line, editor = manifests) => line
  ? element("button", { type: "button", class: "place", onclick: () => editor.go(line) }, `line ${line}`)
  : null;

function problemItem(problem, at) {
  const object = problem.object ? [problem.object.kind, [problem.object.namespace, problem.object.name].filter(Boolean).join("/")].join(" ") : "";
  return element("li", {},
    at, at ? " " : null,
    element("strong", { class: problem.severity }, problem.severity), " ",
    object ? element("span", { class: "mono" }, [object, problem.field].filter(Boolean).join(" ")) : null, object ? ": " : "",
    problem.message,
    problem.advice ? element("div", { class: "quiet" }, problem.advice) : null);
}

function check() {
  const { diagnostics, summary, identities: found } = ask("check", manifests.value);
  if (broken) return;
  // Diagnostics without a line come last.
  const [placed, others] = [diagnostics.filter((one) => one.line), diagnostics.filter((one) => !one.line)];
  byId("problems").replaceChildren(...[...placed, ...others].map((problem) => problemItem(problem, place(problem.line))));
  if (!diagnostics.length) byId("problems").append(element("li", { class: "quiet" }, "none"));
  const s = (count, one, many) => `${count} ${count === 1 ? one : many}`;
  say("summary", [
    s(summary.policies, "policy", "policies"), s(summary.identities, "identity", "identities"),
    s(summary.errors, "error", "errors"), s(summary.warnings, "warning", "warnings"),
  ].join(", "));
  identities = found;
  byId("identities").replaceChildren(...identities.map((name) => element("option", { value: name })));
  showConfig();
}

// The Envoy configuration of an identity from the manifests or from the form.
function showConfig() {
  const whose = byId("whose");
  const typed = byId("identity").value.trim();
  const names = typed.includes("/") && !identities.includes(typed) ? [...identities, typed] : identities;
  const chosen = whose.value;
  // An open list stays open unless its items change.
  if ([...whose.options].map((option) => option.value).join("\n") !== names.join("\n")) {
    whose.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    whose.value = names.includes(chosen) ? chosen : names[0] ?? "";
  }
  const said = whose.value
    ? ask("render_config", manifests.value, whose.value, byId("version").value, byId("module").value)
    : { error: "The manifests name no identity, and the form has none." };
  say("no-identity", said.error ?? "");
  byId("document").textContent = said.document ?? "";
  byId("envoy").textContent = said.envoy ?? "";
}

function connection() {
  const said = {};
  for (const field of FIELDS) said[field] = byId(field).value;
  for (const field of SWITCHES) said[field] = byId(field).checked;
  return said;
}

function setConnection(said) {
  for (const field of FIELDS) byId(field).value = linkedField(said, field);
  for (const field of SWITCHES) byId(field).checked = said[field] === true;
}

function evaluate() {
  const answer = byId("answer");
  const said = ask("explain", manifests.value, JSON.stringify(connection()));
  if (said.error !== undefined) {
    manifests.mark(null);
    answer.replaceChildren(element("p", { class: "bad", id: "mistake" }, said.error));
    say("said", said.error);
    return null;
  }
  const { report } = said;
  const allowed = report.verdict === "allow";
  answer.replaceChildren(...parts(said, ({ line }) => place(line)));
  manifests.mark(report.line, allowed ? "allow" : "deny");
  if (report.line) manifests.show(report.line);
  say("said", `${allowed ? "Allowed" : "Denied"}: ${report.meaning}`);
  byId("expect").value = report.verdict;
}

// Test cases.

function add() {
  const now = connection();
  cases.push({ name: now.to, expect: byId("expect").value, connection: now });
  changedCases();
}

// The results of the test cases are outdated.
function forget() {
  if (outcomes) {
    outcomes = null;
    showCases();
  }
  forgetChanges();
}

function forgetChanges() {
  byId("diff").hidden = true;
  byId("changes").textContent = "";
  byId("changed-problems").replaceChildren();
}

function changedCases() {
  forget();
  showCases();
  remember();
}

function summaryOf({ to, address, method, path, headers, sni, noSni, ech, clientHello }) {
  const more = [
    address && `at ${address}`, method, path, headers && headers.split("\n").filter(Boolean).join("; "),
    sni && `server name ${sni}`, noSni && "no server name", ech && "ECH", clientHello && `bytes ${clientHello.slice(0, 24)}`,
  ].filter(Boolean);
  return [element("code", {}, to), more.length ? element("span", { class: "quiet" }, ` ${more.join(", ")}`) : ""];
}

function showCases() {
  // The rows are rebuilt: the focus moves to the field that replaces the focused one.
  const focused = byId("cases").contains(document.activeElement) ? document.activeElement.ariaLabel : null;
  byId("no-cases").hidden = cases.length > 0;
  byId("cases").hidden = !cases.length;
  byId("cases").tBodies[0].replaceChildren(...cases.map((one, index) => {
    const outcome = outcomes?.[index];
    const choice = element("select", { "aria-label": `expected of case ${index + 1}`, onchange: () => { one.expect = choice.value; changedCases(); } },
      ...["allow", "deny"].map((verdict) => element("option", { value: verdict }, verdict)));
    choice.value = one.expect;
    const actual = !outcome ? element("span", { class: "quiet" }, "not run")
      : outcome.error !== undefined ? element("span", { class: "bad" }, outcome.error)
      : element("span", { class: outcome.passed ? "good" : "bad" }, `${outcome.passed ? "passed" : "FAILED"}: ${outcome.actual}`);
    return element("tr", {},
      element("td", {}, ...summaryOf(one.connection)),
      element("td", { class: "mono whole", "data-head": "identity" }, one.connection.identity),
      element("td", { "data-head": "expected" }, choice),
      element("td", { "data-head": "actual" }, actual),
      element("td", { class: "actions" },
        element("button", { type: "button", "aria-label": `show case ${index + 1}`, onclick: () => { setConnection(one.connection); evaluate(); remember(); } }, "Show"), " ",
        element("button", { type: "button", "aria-label": `remove case ${index + 1}`, onclick: () => { cases.splice(index, 1); changedCases(); } }, "Remove")));
  }));
  if (focused) (byId("cases").querySelector(`[aria-label='${focused}']`) ?? byId("add")).focus();
  if (!outcomes) { byId("tally").textContent = ""; return; }
  const failed = outcomes.filter((outcome) => !outcome.passed).length;
  byId("tally").textContent = `${outcomes.length} ${outcomes.length === 1 ? "case" : "cases"}, ${failed} failed`;
}

function runAll() {
  const said = ask("run_cases", manifests.value, JSON.stringify(cases));
  if (said.error !== undefined) return fail(said.error);
  outcomes = said;
  showCases();
}

function compare() {
  const all = cases.length ? cases : [{ name: "", expect: "deny", connection: connection() }];
  const said = ask("compare_cases", manifests.value, changed.value, JSON.stringify(all));
  if (said.error !== undefined) return fail(said.error);
  const { diagnostics } = ask("check", changed.value);
  const errors = (diagnostics ?? []).filter((problem) => problem.severity === "error");
  byId("changed-problems").replaceChildren(...errors.map((problem) => problemItem(problem, place(problem.line, changed))));
  const table = byId("diff");
  table.hidden = false;
  table.tBodies[0].replaceChildren(...said.map((outcome, index) => element("tr", outcome.changed ? { class: "changed" } : {},
    element("td", {}, ...summaryOf(all[index].connection)),
    ...(outcome.error !== undefined
      ? [element("td", { class: "bad", colspan: "2" }, outcome.error)]
      : [element("td", { "data-head": "now" }, outcome.before), element("td", { "data-head": "then" }, outcome.after)]))));
  const count = said.filter((outcome) => outcome.changed).length;
  byId("changes").textContent = `${count} of ${said.length} ${count === 1 ? "changes" : "change"}`;
}

function save() {
  const said = ask("export_cases", JSON.stringify(cases));
  if (said.error !== undefined) return fail(said.error);
  // JSON is YAML: `osm-egress test` reads it.
  download("cases.yaml", `${JSON.stringify(said, null, 2)}\n`);
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  element("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

// Shows the result beside the button.
async function copy(text, status) {
  try {
    await navigator.clipboard.writeText(text);
    status.textContent = "copied";
  } catch {
    // Browsers refuse where the page came unencrypted from elsewhere.
    status.textContent = "the browser refuses: select and copy";
  }
  setTimeout(() => { status.textContent = ""; }, 3000);
}

// The address bar holds all input, so that a link shows the same page.

function remember(how = "replaceState") {
  const state = { manifests: manifests.value, connection: connection(), cases, changed: changed.value };
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  const fragment = btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const fits = fragment.length <= LONGEST_FRAGMENT;
  history[how](null, "", fits ? `#${fragment}` : location.pathname + location.search);
  byId("share").disabled = !fits;
  say("shared", fits ? "" : "too much text for a link");
}

// Called before the input is replaced, so that the browser's Back button restores it.
function keep() {
  // After a step back they would write the present input over that of the page before.
  soon.cancel();
  soonRemember.cancel();
  remember();
  history.pushState(null, "", location.href);
}

// The value of a field in a link. Links of earlier versions name the identity `source`.
function linkedField(linked, field) {
  const value = linked?.[field] ?? (field === "identity" ? linked?.source : undefined);
  return typeof value === "string" ? value : "";
}

function recall() {
  const fragment = location.hash.slice(1);
  if (!fragment) return false;
  try {
    const text = atob(fragment.replaceAll("-", "+").replaceAll("_", "/"));
    const state = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    const string = (value) => (typeof value === "string" ? value : "");
    manifests.value = string(state.manifests);
    changed.value = string(state.changed);
    setConnection(state.connection ?? {});
    cases = (Array.isArray(state.cases) ? state.cases : []).map((one) => {
      const said = {};
      for (const field of FIELDS) said[field] = linkedField(one?.connection, field);
      for (const field of SWITCHES) said[field] = one?.connection?.[field] === true;
      return { name: string(one?.name), expect: one?.expect === "allow" ? "allow" : "deny", connection: said };
    });
    outcomes = null;
    return true;
  } catch {
    fail("What stands behind # in the address is not from this page: it was not read.");
    return false;
  }
}

function later(act, wait) {
  let timer;
  const run = () => { clearTimeout(timer); timer = setTimeout(act, wait); };
  run.cancel = () => clearTimeout(timer);
  return run;
}

function everything() {
  if (broken) return;
  check();
  if (byId("to").value) evaluate();
  else { byId("answer").replaceChildren(); say("said", ""); manifests.mark(null); }
}

const soon = later(() => { everything(); remember(); }, 150);
const soonRemember = later(remember, 150);
const manifests = new Editor(byId("editor"), () => { byId("example").value = ""; forget(); soon(); });
const changed = new Editor(byId("changed-editor"), () => { forgetChanges(); soonRemember(); });

function load(example) {
  byId("example").value = example;
  const [, text, said] = EXAMPLES[example];
  manifests.value = text;
  setConnection({ identity: "shop/app", ...said });
  forget();
  everything();
}

async function read(files) {
  const texts = await Promise.all(Array.from(files, (file) => file.text()));
  if (!texts.length) return;
  keep();
  manifests.value = texts.map((text) => (text.endsWith("\n") ? text : `${text}\n`)).join("---\n");
  byId("upload").value = "";
  byId("example").value = "";
  forget();
  soon();
}

// The module is compressed. If the server declares that, the browser has decompressed it already.
async function module() {
  const answer = await fetch("egress_playground.wasm.gz");
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  const bytes = await answer.arrayBuffer();
  const [first, second] = new Uint8Array(bytes, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return bytes;
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function start() {
  byId("example").append(element("option", { value: "" }, "choose …"));
  EXAMPLES.forEach(([name], index) => byId("example").append(element("option", { value: index }, name)));
  try {
    await init({ module_or_path: await module() });
  } catch (error) {
    fail(`The module does not load: ${error}`);
    return;
  }
  const { versions, module: where } = ask("list_choices");
  byId("version").replaceChildren(...versions.map((version) => element("option", { value: version }, version)));
  byId("module").value = where;
  if (recall()) { byId("example").value = ""; everything(); } else load(0);
  showCases();
  byId("example").addEventListener("change", (event) => {
    if (event.target.value === "") return;
    keep();
    load(Number(event.target.value));
    remember();
  });
  byId("upload").addEventListener("change", (event) => read(event.target.files));
  byId("editor").addEventListener("dragover", (event) => event.preventDefault());
  byId("editor").addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    read(event.dataTransfer.files);
  });
  byId("connection").addEventListener("input", soon);
  byId("connection").addEventListener("change", soon);
  const now = () => { everything(); remember(); };
  byId("connection").addEventListener("submit", (event) => { event.preventDefault(); now(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); now(); }
  });
  byId("add").addEventListener("click", add);
  byId("run").addEventListener("click", runAll);
  byId("save").addEventListener("click", save);
  byId("copy").addEventListener("click", () => { changed.value = manifests.value; forgetChanges(); remember(); });
  byId("compare").addEventListener("click", compare);
  for (const id of ["whose", "version"]) byId(id).addEventListener("change", showConfig);
  byId("module").addEventListener("input", later(showConfig, 150));
  byId("share").addEventListener("click", () => copy(location.href, byId("shared")));
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(byId(button.dataset.copy).textContent, button.parentElement.querySelector("[role=status]")));
  }
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => download(button.dataset.name, byId(button.dataset.download).textContent));
  }
  addEventListener("hashchange", () => { if (recall()) { byId("example").value = ""; forget(); everything(); showCases(); } });
  performance.mark("answered");
  document.documentElement.dataset.ready = "yes";
}

start();
