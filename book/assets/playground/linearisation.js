// The linearisation's playground: a start to drag on the double well and a window; the true law
// after it beside the Gaussian, the bias of its mean, and the variance of its label.
import { Canvas, make, mount, numberControl, Plot, show } from "./view.js";
import { leadingBias, linearised, normal, potential, Table } from "./well.js";

const REACH = 3.2; // of the picture
const XS = Array.from({ length: 321 }, (_, i) => (i / 160 - 1) * REACH);
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const BLUE = "#0072b2", BLACK = "#1a1a1a", ORANGE = "#d55e00", GREY = "#cccccc", FAINT = "#b39bc8";
const log = Math.log10;
const WINDOWS = [0.02, 0.1, 0.5].map((h) => [log(h), h]);

export class Playground {
  constructor(home, data) {
    this.table = new Table(data);
    const { most, low, high } = this.table, changed = () => this.ask();
    const round = (x) => Math.round(100 * x) / 100 + 0; // never the negative zero
    this.start = numberControl({ label: "start y", low: -most, high: most, value: 0.2, round, changed });
    this.window = numberControl({ label: "window h", low, high, value: 0.3, log: true, changed });
    this.windows = Array.from({ length: 61 }, (_, i) => low * (high / low) ** (i / 60));
    this.canvases = this.build();
    this.message = make("p", { class: "told", role: "status" });
    const names = ["truth (grey), linearised (blue), potential (violet)", "bias of the mean, h² law (orange)",
      "variance of the label, 1/h (orange)"];
    mount(home,
      make("div", { class: "controls" }, this.start.element, this.window.element),
      make("div", { class: "beside" }, ...this.canvases.map((one, i) =>
        make("div", {}, make("p", { class: "name" }, names[i]), one.element))),
      this.message);
    this.change();
  }

  build() {
    const canvas = (attributes, paint, drag) => new Canvas({ class: "drag", ...attributes,
      ...Object.fromEntries(["pointerdown", "pointermove"].map((kind) => [kind, (event) => this.pointer(event, drag)])) }, paint);
    const label = "The law after the window. Left and right arrow keys move the start, up and down change the window.";
    const meter = (name, paint) => canvas({ role: "img", "aria-label": `${name} over the window.` }, paint,
      (pixel) => this.window.read((10 ** this.over.at(pixel)).toPrecision(3)));
    return [
      canvas({ tabindex: 0, role: "application", "aria-label": label, keydown: (event) => this.key(event) },
        (...at) => this.paintLaw(...at), (pixel) => this.start.read(this.line.at(pixel).toPrecision(3))),
      meter("The bias of the mean", (...at) => this.paintBias(...at)),
      meter("The variance of the label", (...at) => this.paintVariance(...at)),
    ];
  }

  /** What is dragged follows the pointer while it is held. */
  pointer(event, drag) {
    if (event.type === "pointerdown") event.target.setPointerCapture(event.pointerId);
    if (event.target.hasPointerCapture(event.pointerId)) drag(event.offsetX);
  }

  key(event) {
    const [right, up] = KEYS[event.key] ?? [0, 0], steps = event.shiftKey ? 5 : 1;
    if (!right && !up) return;
    event.preventDefault();
    if (right) this.start.read((this.start.value + 0.04 * steps * right).toFixed(2));
    else this.window.read(String(this.window.value * 2 ** ((steps * up) / 8)));
  }

  /** Change at the next frame, however many numbers change before. */
  ask() {
    cancelAnimationFrame(this.next);
    this.next = requestAnimationFrame(() => this.change());
  }

  change() {
    const [y, h] = [this.start.value, this.window.value], size = (u) => Math.abs(this.table.moments(y, u).bias);
    this.law = this.table.law(y, h);
    this.gauss = linearised(y, h);
    this.biases = this.windows.map(size);
    const bias = `Bias of the mean: ${show(Math.abs(this.law.bias))}, its h² law says ${show(leadingBias(y, h))}.`;
    const label = `Variance of the label: ${show(1 / this.gauss.variance)}; 1/h is ${show(1 / h)}.`;
    this.message.textContent = `${bias} ${label} Distance of the two laws in total variation: ${show(this.law.variation)}.`;
    this.canvases.forEach((canvas) => canvas.ask());
  }

  // -- painting ------------------------------------------------------------------------------------
  paintLaw(context, width, height) {
    const { law, gauss: { mean, variance } } = this, y = this.start.value, density = XS.map(law.density);
    const top = 1.1 * Math.max(normal(0, 0, variance), ...density);
    const plot = (this.line = new Plot(context, width, height, { x: [-REACH, REACH], y: [0, top] }));
    plot.area(XS, density, 0, GREY);
    plot.line(XS, XS.map((x) => top * (0.12 + 0.35 * potential(x))), FAINT, 1.2);
    plot.line(XS, XS.map((x) => normal(x, mean, variance)), BLUE, 2.2);
    plot.line([y, y], [0, top], BLACK, 1);
    plot.dot(y, 0.06 * top, BLACK, 7);
    const step = [0.1, 0.2, 0.5, 1].find((size) => top < 4 * size), ticks = [0, step, 2 * step, 3 * step];
    plot.axes([-2, 0, 2].map((x) => [x, x]), ticks.filter((tick) => tick < top).map((tick) => [tick, show(tick)]));
  }

  paintBias(context, width, height) {
    const y = this.start.value, exact = this.biases.map(log), law = this.windows.map((h) => log(leadingBias(y, h)));
    this.paintMeter(context, width, height, [-5, 1], exact, law, log(Math.abs(this.law.bias)), [-4, -2, 0]);
  }

  paintVariance(context, width, height) {
    const exact = this.windows.map((h) => -log(linearised(this.start.value, h).variance));
    const law = this.windows.map((h) => -log(h));
    this.paintMeter(context, width, height, [-1, 2], exact, law, -log(this.gauss.variance), [-1, 0, 1, 2]);
  }

  /** Logarithms over the logarithm of the window, and where the chosen window is. */
  paintMeter(context, width, height, y, exact, law, now, ticks) {
    const xs = this.windows.map(log);
    const plot = (this.over = new Plot(context, width, height, { x: [xs[0] - 0.05, xs.at(-1) + 0.05], y }));
    plot.line(xs, law, ORANGE, 1.4);
    plot.line(xs, exact, BLUE, 2.2);
    plot.dot(log(this.window.value), now, BLACK, 5);
    plot.axes(WINDOWS, ticks.map((tick) => [tick, tick < -1 ? `1e${tick}` : 10 ** tick]));
  }
}

/** A page whose table does not come keeps its sentence. */
async function start(home) {
  try {
    const answer = await fetch(new URL("transitions.json", import.meta.url));
    home.playground = new Playground(home, await answer.json());
  } catch (error) {
    home.classList.remove("live");
  }
}

if (typeof document !== "undefined") document.querySelectorAll(".playground.linearisation.live").forEach(start);
