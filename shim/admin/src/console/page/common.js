// What the console asks the control plane that serves it, and how it shows what is said.
import { element } from "./answer.js";

// More rows than these are not shown, and more flows not kept.
export const MOST = 500;

export const byId = (id) => document.getElementById(id);

export async function text(path, options) {
  const response = await fetch(`../${path}`, { cache: "no-store", credentials: "omit", ...options });
  const said = await response.text();
  if (!response.ok) throw new Refusal(response.status, said.trim());
  return said;
}

export class Refusal extends Error {
  constructor(code, said) { super(said || `the control plane answers ${code}`); this.code = code; }
}

export const json = async (path) => JSON.parse(await text(path));

export function fail(why) {
  byId("failure").textContent = why;
  byId("failure").hidden = !why;
}

// Replaces what is in an element only if it is different: what somebody reads or has the focus on stays.
const shown = new Map();
export function show(id, what, children) {
  const now = JSON.stringify(what);
  if (shown.get(id) === now) return;
  shown.set(id, now);
  byId(id).replaceChildren(...children());
}

export const place = ({ file, line }) => (file ? element("span", { class: "quiet mono" }, line ? `${file}:${line}` : file) : null);
export const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
export const named = ({ kind, namespace, name }) => `${kind} ${namespace ? `${namespace}/` : ""}${name}`;
