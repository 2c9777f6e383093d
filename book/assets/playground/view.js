// What the playgrounds have in common: elements, controls that refuse what is no number, canvases.

/** An element with attributes (functions listen to events) and children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children);
  return element;
}

/** Show `scene` in place of the picture of a playground, which stays in print. */
export function mount(home, ...scene) {
  home.prepend(make("div", { class: "playground-stage" }, ...scene));
}

export const show = (x) => x.toLocaleString("en", { maximumSignificantDigits: 3 });

let ids = 0;

/** A slider and a box for the same number, from `low` to `high`, on a logarithmic scale where
 * `log`; `round` makes any number one that is allowed. `changed(value)` is called with numbers
 * alone: other text is explained below the box, and the last number stays. */
export function numberControl({ label, low, high, value, log, round = (x) => x, changed }) {
  const to = log ? (x) => Math.log(x / low) / Math.log(high / low) : (x) => (x - low) / (high - low);
  const from = log ? (u) => low * (high / low) ** u : (u) => low + (high - low) * u;
  const id = `playground-${ids++}`, fault = make("span", { class: "fault", id: `${id}-fault`, role: "alert" });
  const box = make("input", {
    id, type: "text", inputmode: "decimal", autocomplete: "off", "aria-describedby": `${id}-fault`,
    change: () => read(box.value),
  });
  const slider = make("input", {
    type: "range", min: 0, max: 1, step: "any", "aria-label": `${label}, slider`,
    input: () => set(round(from(Number(slider.value))), true),
    keydown: (event) => step(event),
  });
  const set = (x, told) => {
    value = Math.min(high, Math.max(low, x));
    slider.value = to(value);
    slider.setAttribute("aria-valuetext", show(value));
    box.value = show(value).replace(/,/g, "");
    box.removeAttribute("aria-invalid");
    fault.textContent = "";
    if (told) changed(value);
  };
  const read = (text) => {
    const x = text.trim() ? Number(text) : NaN;
    if (x >= low && x <= high) return set(round(x), true);
    box.setAttribute("aria-invalid", "true");
    fault.textContent = `Expected a number from ${show(low)} to ${show(high)}, found “${text.slice(0, 12)}”.`;
  };
  const step = (event) => { // arrow keys move by a fiftieth: a step of "any" moves by a hundredth
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const next = round(from(Math.min(1, Math.max(0, to(value) + way / 50))));
    set(next === value ? round(value + 2 * way) : next, true);
  };
  set(value, false);
  const element = make("div", { class: "number" }, make("label", { for: id }, label), slider, box, fault);
  return { element, set: (x) => set(x, false), get value() { return value; } };
}

/** A choice among named values. */
export function choice(label, options, changed) {
  const id = `playground-${ids++}`;
  const select = make("select", { id, change: () => changed(select.value) },
    ...Object.entries(options).map(([value, name]) => make("option", { value }, name)));
  const element = make("div", { class: "number" }, make("label", { for: id }, label), select);
  return { element, set: (value) => (select.value = value), get value() { return select.value; } };
}

export function button(text, click, attributes = {}) {
  return make("button", { type: "button", click, ...attributes }, text);
}

/** A canvas as sharp as the screen; `paint(context, width, height)` in CSS pixels, at most once a
 * frame, after `ask`. */
export class Canvas {
  constructor(attributes, paint) {
    this.element = make("canvas", attributes);
    this.paint = paint;
    this.asked = false;
    new ResizeObserver(() => this.fit()).observe(this.element);
  }

  fit() {
    const scale = Math.min(2, window.devicePixelRatio || 1), { clientWidth, clientHeight } = this.element;
    this.element.width = Math.round(scale * clientWidth);
    this.element.height = Math.round(scale * clientHeight);
    this.scale = scale;
    this.draw();
  }

  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.asked = false;
    const { element, scale } = this;
    if (!element.width) return;
    const context = element.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    this.paint(context, element.width / scale, element.height / scale);
  }
}

/** The colours of the book's densities (viridis), 256 of them, red, green, blue. */
const STOPS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
export const COLOURS = Uint8Array.from({ length: 768 }, (_, i) => {
  const place = ((i / 3 | 0) / 255) * (STOPS.length - 1), left = Math.min(STOPS.length - 2, place | 0);
  const part = (stop) => parseInt(STOPS[stop].slice(2 * (i % 3), 2 * (i % 3) + 2), 16);
  return Math.round(part(left) + (place - left) * (part(left + 1) - part(left)));
});
export const GROUND = `#${STOPS[0]}`;
