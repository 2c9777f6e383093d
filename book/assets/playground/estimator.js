// The estimator's playground: on the circle, the fitted score beside the exact one, its error over
// the number of functions, and the complex zero of the density that says how fast it can fall.
import { draws, exactAverages, law, zeros } from "./circle.js";
import { score } from "./flow.js";
import { average, makeWaves, solveAt } from "./spectral.js";
import { Canvas, make, mount, numberControl, Plot, show } from "./view.js";

const MOST = 60; // functions
const GRID = Float64Array.from({ length: 1024 }, (_, p) => (p % 2 ? 0 : ((p + 1) / 512 - 1) * Math.PI));
const BLUE = "#0072b2", BLACK = "#1a1a1a", ORANGE = "#d55e00", GREY = "#dddddd";

/** Relative errors and coefficients of the fits with 2, 4, ... functions. */
export function errors(averages, t, ridge, exact) {
  const found = [];
  for (let count = 2; count <= MOST; count += 2) {
    const waves = makeWaves(count, 1);
    const { alpha } = solveAt(averages, waves, t, { mix: 1, heat: 0 }, ridge);
    const fitted = score(waves, alpha, GRID);
    let [off, all] = [0, 0];
    exact.forEach(([density, , slope], i) => {
      off += density * (fitted[2 * i] - slope / density) ** 2;
      all += slope ** 2 / density;
    });
    found.push({ count, fitted, error: Math.sqrt(off / all) });
  }
  return found;
}

export class Playground {
  constructor(home) {
    const changed = () => this.ask(), even = (x) => 2 * Math.round(x / 2);
    this.t = numberControl({ label: "noise level t", low: 0.01, high: 1, value: 0.1, log: true, changed });
    this.count = numberControl({ label: "functions K", low: 2, high: MOST, value: 24, round: even, changed });
    this.n = numberControl({ label: "points n", low: 20, high: 20_000, value: 1000, log: true, round: Math.round, changed });
    this.ridge = numberControl({ label: "ridge ε", low: 1e-12, high: 1, value: 1e-9, log: true, changed });
    this.exact = make("input", { type: "checkbox", change: changed });
    const canvas = (label, paint) => new Canvas({ role: "img", "aria-label": label }, paint);
    this.canvases = [
      canvas("Exact and fitted score over the circle, with the density.", (...at) => this.paintScore(...at)),
      canvas("The error over the number of functions.", (...at) => this.paintErrors(...at)),
      canvas("The zeros of the density in the complex plane.", (...at) => this.paintZeros(...at)),
    ];
    this.message = make("p", { class: "told", role: "status" });
    const names = ["score: exact (black), fitted (blue)", "error over K, predicted rate (orange)", "complex zeros of the density"];
    mount(home,
      make("div", { class: "plots" }, ...this.canvases.map((one, i) =>
        make("div", {}, make("p", { class: "name" }, names[i]), one.element))),
      make("div", { class: "controls" }, ...[this.t, this.count, this.n, this.ridge].map((one) => one.element)),
      make("div", { class: "strip" }, make("label", {}, this.exact, " exact averages, as from infinitely many points")),
      this.message);
    this.change();
  }

  /** Change at the next frame, however many numbers change before. */
  ask() {
    cancelAnimationFrame(this.next);
    this.next = requestAnimationFrame(() => this.change());
  }

  change() {
    const [t, n, ridge] = [this.t.value, this.n.value, this.ridge.value];
    this.truth = Array.from({ length: GRID.length / 2 }, (_, i) => law(t, GRID[2 * i]));
    const averages = this.exact.checked ? exactAverages(MOST) : average(draws(n), makeWaves(MOST, 1));
    this.fits = errors(averages, t, ridge, this.truth);
    this.zeros = zeros(t);
    this.chosen = this.fits[this.count.value / 2 - 1];
    const [x, y] = this.zeros[0] ?? [NaN, NaN];
    const pole = this.zeros.length
      ? `The zero nearest to the real axis is ${show(x)} + ${show(y)}i: with exact averages the error falls by the factor ${show(Math.exp(y))} for each wave.`
      : "The density has no zero in this part of the plane: the error falls faster than a factor of 20 for each wave.";
    this.message.textContent = `Relative error of the score: ${show(this.chosen.error)}. ${pole}`;
    this.canvases.forEach((canvas) => canvas.ask());
  }

  paintScore(context, width, height) {
    const exact = this.truth.map(([density, , slope]) => slope / density);
    const top = 1.15 * exact.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    const highest = this.truth.reduce((a, [b]) => Math.max(a, b), 0);
    const plot = new Plot(context, width, height, { x: [-Math.PI, Math.PI], y: [-top, top] });
    const xs = this.truth.map((_, i) => GRID[2 * i]);
    plot.area(xs, this.truth.map(([density]) => top * (density / highest - 1)), -top, GREY);
    plot.line(xs, exact, BLACK, 2.4);
    plot.line(xs, xs.map((_, i) => this.chosen.fitted[2 * i]), BLUE, 1.8);
    plot.axes([[-Math.PI, "−π"], [0, "0"], [Math.PI, "π"]], [-1, 0, 1].map((u) => [u * top / 1.15, show(u * top / 1.15)]));
  }

  paintErrors(context, width, height) {
    const plot = new Plot(context, width, height, { x: [0, MOST], y: [-10, 1] });
    const log = this.fits.map(({ error }) => Math.log10(error));
    if (this.zeros.length) {
      const rate = this.zeros[0][1] / Math.LN10, start = Math.max(0, log.findIndex((value) => value < -1));
      const anchor = log[start] + rate * this.fits[start].count / 2;
      plot.line([0, MOST], [anchor, anchor - rate * MOST / 2], ORANGE, 1.4);
    }
    this.fits.forEach(({ count }, i) => plot.dot(count, log[i], BLUE, count === this.chosen.count ? 5 : 2.2));
    plot.axes([0, 20, 40, 60].map((x) => [x, x]), [-9, -6, -3, 0].map((y) => [y, y ? `1e${y}` : "1"]));
  }

  paintZeros(context, width, height) {
    const plot = new Plot(context, width, height, { x: [-Math.PI, Math.PI], y: [0, 3] });
    if (this.zeros.length) plot.area([-Math.PI, Math.PI], [this.zeros[0][1], this.zeros[0][1]], 0, "#fbe3d3");
    this.zeros.forEach(([x, y], i) => plot.dot(x, y, i ? "#7f7f7f" : ORANGE, i ? 3 : 6));
    plot.axes([[-Math.PI, "−π"], [0, "0"], [Math.PI, "π"]], [0, 1, 2, 3].map((y) => [y, y ? `${y}i` : "0"]));
  }
}

if (typeof document !== "undefined")
  for (const home of document.querySelectorAll(".playground.estimator.live")) home.playground = new Playground(home);
