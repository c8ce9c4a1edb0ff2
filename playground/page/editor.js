import { element } from "./answer.js";

// The height of a line, as in the style sheet.
const LINE = 20;

// Editors: a textarea between line numbers and marked lines.
export class Editor {
  constructor(box, change) {
    this.text = box.querySelector("textarea");
    this.numbers = box.querySelector(".numbers");
    this.layer = box.querySelector(".marks");
    this.count = 0;
    this.text.addEventListener("scroll", () => this.follow());
    this.text.addEventListener("input", () => { this.number(); change(); });
    new ResizeObserver(() => this.follow()).observe(this.text);
    this.number();
  }
  get value() { return this.text.value; }
  set value(text) { this.text.value = text; this.number(); }
  number() {
    const count = this.text.value.split("\n").length;
    if (count === this.count) return;
    this.count = count;
    this.numbers.textContent = Array.from({ length: count }, (_, i) => i + 1).join("\n") + "\n\n";
    this.follow();
  }
  follow() {
    this.numbers.scrollTop = this.text.scrollTop;
    this.layer.style.transform = `translateY(${-this.text.scrollTop}px)`;
  }
  mark(line, kind) {
    this.layer.replaceChildren();
    if (!line) return;
    const mark = element("div", { class: `mark ${kind}`, "data-line": line });
    mark.style.top = `${(line - 1) * LINE}px`;
    this.layer.append(mark);
  }
  show(line) {
    const top = (line - 1) * LINE;
    const { scrollTop, clientHeight } = this.text;
    if (top < scrollTop || top > scrollTop + clientHeight - 3 * LINE) {
      this.text.scrollTop = Math.max(0, top - clientHeight / 3);
    }
  }
  // Moves the cursor to a line.
  go(line) {
    const before = this.text.value.split("\n").slice(0, line - 1);
    const at = before.reduce((sum, text) => sum + text.length + 1, 0);
    this.text.focus({ preventScroll: true });
    this.text.setSelectionRange(at, at);
    this.text.scrollLeft = 0;
    this.show(line);
    this.text.scrollIntoView({ block: "nearest" });
  }
}
