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

/** Three digits of a number. */
export const show = (x) => (x && Math.abs(x) < 1e-3
  ? x.toExponential(2).replace(/\.?0*e/, "e")
  : x.toLocaleString("en", { maximumSignificantDigits: 3 }));

let ids = 0;

/** A slider and a box for the same number, from `low` to `high`, on a logarithmic scale where
 * `log`; `round` makes any number one that is allowed. `changed(value)` is called with numbers
 * alone: a number beyond the ends becomes the nearest one, other text leaves the last number, and
 * both are said below the box, where `read(text)` is called as well. */
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
    const x = text.trim() ? Number(text) : NaN, number = Number.isFinite(x);
    if (number) set(round(x), true);
    else box.setAttribute("aria-invalid", "true");
    if (x >= low && x <= high) return;
    const found = `Expected a number from ${show(low)} to ${show(high)}, found “${text.slice(0, 12)}”`;
    fault.textContent = number ? `${found}: ${show(value)} is taken.` : `${found}.`;
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
  return { element, read, set: (x) => set(x, false), get value() { return value; } };
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

/** Curves in a rectangle, on paper as the book's figures. */
export class Plot {
  constructor(context, width, height, { x, y }) {
    const [left, right, top, bottom] = [44, 10, 8, 22];
    Object.assign(this, { context, left, bottom: height - bottom, right: width - right, top });
    this.x = (value) => left + ((value - x[0]) / (x[1] - x[0])) * (width - left - right);
    this.y = (value) => height - bottom - ((value - y[0]) / (y[1] - y[0])) * (height - top - bottom);
    this.at = (pixel) => x[0] + ((pixel - left) / (width - left - right)) * (x[1] - x[0]);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
  }

  /** What `draw` draws, cut off at the rectangle. */
  inside(draw) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(this.left, this.top, this.right - this.left, this.bottom - this.top);
    context.clip();
    context.beginPath();
    draw(context);
    context.restore();
  }

  line(xs, ys, colour, width) {
    this.inside((context) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      xs.forEach((x, i) => context.lineTo(this.x(x), this.y(ys[i])));
      context.stroke();
    });
  }

  area(xs, ys, base, colour) {
    this.inside((context) => {
      context.fillStyle = colour;
      context.moveTo(this.x(xs[0]), this.y(base));
      xs.forEach((x, i) => context.lineTo(this.x(x), this.y(ys[i])));
      context.lineTo(this.x(xs[xs.length - 1]), this.y(base));
      context.fill();
    });
  }

  dot(x, y, colour, size) {
    this.inside((context) => {
      context.fillStyle = colour;
      context.arc(this.x(x), this.y(y), size, 0, 2 * Math.PI);
      context.fill();
    });
  }

  /** The frame and ticks, pairs of a value and its name. */
  axes(xs, ys) {
    const { context } = this;
    context.strokeStyle = "#1a1a1a";
    context.lineWidth = 1;
    context.strokeRect(this.left, this.top, this.right - this.left, this.bottom - this.top);
    context.fillStyle = "#1a1a1a";
    context.font = "12px sans-serif";
    context.textAlign = "center";
    for (const [value, name] of xs) context.fillText(name, this.x(value), this.bottom + 16);
    context.textAlign = "right";
    for (const [value, name] of ys) context.fillText(name, this.left - 5, this.y(value) + 4);
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
