// Requests to the control plane, and helpers that show the responses.
import { element } from "./answer.js";

// Maximum number of rows shown and of flows kept.
export const MAX_ROWS = 500;

export const byId = (id) => document.getElementById(id);

export async function text(path, options) {
  const response = await fetch(`../${path}`, { cache: "no-store", credentials: "omit", ...options });
  const body = await response.text();
  if (!response.ok) throw new ResponseError(response.status, body.trim());
  return body;
}

export class ResponseError extends Error {
  constructor(code, message) { super(message || `the control plane answered with status ${code}`); this.code = code; }
}

export const json = async (path) => JSON.parse(await text(path));

export function showFailure(message) {
  byId("failure").textContent = message;
  byId("failure").hidden = !message;
}

// Replaces the content of an element only if it has changed, so that focus and selection stay.
const shown = new Map();
export function render(id, data, children) {
  const now = JSON.stringify(data);
  if (shown.get(id) === now) return;
  shown.set(id, now);
  byId(id).replaceChildren(...children());
}

export const formatLocation = ({ file, line }) => (file ? element("span", { class: "quiet mono" }, line ? `${file}:${line}` : file) : null);
export const formatCount = (number, one, many) => `${number} ${number === 1 ? one : many}`;
export const formatObject = ({ kind, namespace, name }) => `${kind} ${namespace ? `${namespace}/` : ""}${name}`;
