// The home page's playground: a torus to draw on, the score of what is drawn, and points that the
// score carries from noise to the drawing.
import { normal, uniform, wrap } from "./flow.js";
import { button, Canvas, choice, COLOURS, GROUND, make, mount, numberControl, show } from "./view.js";
import { ARROWS, CELLS, centres, TIMES } from "./worker.js";

const MOST = 8000; // points
const FEW = 10; // from fewer, how far to trust an average cannot be told
const DENSE = 120, SPREAD = 0.07; // of the brush: points for each unit of length, deviation
const RUN = 5000; // milliseconds from noise to drawing
const PRESETS = {
  pinwheel: "Pinwheel", spirals: "Spirals", checkerboard: "Checkerboard", angles: "Protein angles",
};
const RULES = { "heat+1": "heat, one observation more", heat: "heat", none: "none" };
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const last = TIMES.length - 1;

export class Playground {
  constructor(home) {
    this.home = home;
    this.points = [];
    this.random = uniform(2);
    this.gauss = normal(this.random);
    this.level = 0; // a place among the levels, between two of them as well
    this.brush = [0, 0];
    this.shown = { density: true, arrows: true, particles: true };
    this.feet = centres(ARROWS);
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.image = new OffscreenCanvas(CELLS, CELLS);
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.answered(data));
    this.worker.addEventListener("error", (event) => this.failed(event));
    this.build();
  }

  build() {
    const label = "A torus to draw on. Arrow keys move the brush, the space bar draws.";
    this.board = new Canvas({ class: "board", tabindex: 0, role: "application", "aria-label": label,
      keydown: (event) => this.key(event) }, (...at) => this.paintBoard(...at));
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"])
      this.board.element.addEventListener(kind, (event) => this.pointer(event));
    const described = "The density of the noised points, the arrows of its score, and particles.";
    this.picture = new Canvas({ role: "img", "aria-label": described }, (...at) => this.paintPicture(...at));
    this.message = make("p", { class: "told", role: "status" });
    this.count = numberControl({ label: "waves K", low: 8, high: 400, value: 200,
      round: (x) => 2 * Math.round(x / 2), changed: () => this.ask() });
    this.rule = choice("shrinkage", RULES, () => this.ask());
    this.noise = choice("particles follow", { "": "the probability flow", noise: "the reverse equation" },
      () => this.ask());
    this.time = numberControl({ label: "noise level t", low: TIMES[0], high: TIMES[last], value: TIMES[0],
      log: true, changed: (t) => this.scrub(t) });
    const presets = Object.entries(PRESETS).map(([name, text]) => button(text, () => this.preset(name)));
    const layers = Object.keys(this.shown).map((name) => make("label", {},
      make("input", { type: "checkbox", checked: true, change: (event) => this.toggle(name, event) }), ` ${name}`));
    this.run = button("Run from noise", () => this.play(), { class: "run" });
    mount(this.home,
      make("div", { class: "squares" },
        make("div", {}, make("p", { class: "name" }, "Draw here, with a finger or the mouse"), this.board.element),
        make("div", {}, make("p", { class: "name" }, "Its score, its density, and points from noise"), this.picture.element)),
      make("div", { class: "strip" }, ...presets, button("Clear", () => this.clear()), this.run),
      make("div", { class: "controls" }, this.time.element, this.count.element, this.rule.element, this.noise.element),
      make("div", { class: "strip" }, ...layers), this.message);
  }

  // -- what is drawn -----------------------------------------------------------------------------
  async preset(name) {
    this.presets ??= fetch(new URL("presets.json", import.meta.url)).then((answer) => answer.json());
    const { unit, sets } = await this.presets;
    this.points = sets[name].map((value) => value * unit);
    this.ask();
  }

  clear() {
    this.points = [];
    this.fields = this.paths = null;
    this.ask();
  }

  /** Points scattered about the way from one place to another. */
  stroke(from, to) {
    const step = to.map((value, d) => wrap(value - from[d])), length = Math.hypot(...step);
    const count = Math.max(1, Math.round(DENSE * length + (length ? 0 : DENSE / 10)));
    for (let i = 0; i < count && this.points.length < 2 * MOST; i++) {
      const along = this.random();
      for (const d of [0, 1]) this.points.push(wrap(from[d] + along * step[d] + SPREAD * this.gauss()));
    }
    this.brush = to.map(wrap);
    this.ask();
  }

  pointer(event) {
    const box = this.board.element.getBoundingClientRect();
    const at = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
    const place = at.map((value) => (2 * value - 1) * Math.PI);
    if (event.type === "pointerdown") {
      this.board.element.setPointerCapture(event.pointerId);
      this.drawing = true;
      this.stop();
      this.goto(0);
      this.stroke(place, place);
    } else if (event.type === "pointermove" && this.drawing) this.stroke(this.brush, place);
    else if (event.type !== "pointermove" && this.drawing) {
      this.drawing = false;
      this.ask();
    }
  }

  key(event) {
    const step = event.shiftKey ? 0.4 : 0.1, way = KEYS[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    const to = way ? this.brush.map((value, d) => wrap(value + step * way[d])) : this.brush;
    if (!way) this.stroke(to, to);
    this.brush = to;
    this.board.ask();
  }

  // -- what is asked of the worker, one request at a time -----------------------------------------
  ask() {
    this.board.ask();
    this.dirty = true;
    if (this.busy) return;
    this.dirty = false;
    if (!this.points.length) {
      this.tell("Nothing is drawn yet: draw on the left square, or take one of the sets below it.");
      return this.picture.ask();
    }
    this.busy = true;
    const [count, rule, noise] = [this.count.value, this.rule.value, this.noise.value !== ""];
    this.asked = { points: Float64Array.from(this.points), count, rule, noise };
    this.worker.postMessage(this.asked);
  }

  answered({ error, fields, paths, ...made }) {
    if (error) this.tell(`The fit failed: ${error}.`);
    if (fields) {
      this.fields = this.points.length ? fields : null;
      this.highest = fields[0].density.reduce((a, b) => Math.max(a, b), 0);
      this.made = made;
      this.explain(made);
    }
    if (paths) this.paths = this.points.length ? paths : null;
    this.picture.ask();
    if (fields) return;
    this.busy = false;
    this.home.dispatchEvent(new CustomEvent("fitted"));
    if (this.dirty) this.ask();
    else if (paths && !this.drawing && !this.still) this.play();
  }

  failed(event) {
    event.preventDefault();
    this.home.classList.remove("live");
    this.home.querySelector(".playground-stage").remove();
  }

  explain({ heat, noisy, milliseconds }) {
    const { points, count, rule } = this.asked, n = points.length / 2;
    const size = n === 1 ? "1 point" : `${n.toLocaleString("en")} points`;
    const warmth = heat ? `, heat ${show(heat)}` : "";
    const fitted = `${size}, ${count} functions${warmth}: fitted at ${TIMES.length} noise levels in ${show(milliseconds)} ms.`;
    const full = n >= MOST ? " The canvas takes no more points; clear it to draw on." : "";
    if (noisy) {
      const offer = button("Shrink by heat", () => (this.rule.set("heat"), this.ask()));
      return this.tell(`${fitted} So many functions are more than ${size} support: the score follows the noise of their averages. `, offer);
    }
    const few = n < FEW && rule !== "none"
      ? ` From fewer than ${FEW} points it cannot be told how far to trust an average: draw more.` : "";
    this.tell(fitted + full + few);
  }

  tell(...content) {
    this.message.replaceChildren(...content);
  }

  // -- time ----------------------------------------------------------------------------------------
  scrub(t) {
    this.stop();
    this.level = (last * Math.log(t / TIMES[0])) / Math.log(TIMES[last] / TIMES[0]);
    this.picture.ask();
  }

  goto(level) {
    this.level = level;
    this.time.set(TIMES[0] * (TIMES[last] / TIMES[0]) ** (level / last));
    this.picture.ask();
  }

  play() {
    this.stop();
    const began = performance.now();
    const frame = (now) => {
      const share = Math.min(1, Math.max(0, (now - began) / RUN));
      this.goto(last * (1 - share));
      this.running = share < 1 ? requestAnimationFrame(frame) : null;
    };
    this.running = requestAnimationFrame(frame);
  }

  stop() {
    cancelAnimationFrame(this.running);
    this.running = null;
  }

  toggle(name, event) {
    this.shown[name] = event.target.checked;
    this.picture.ask();
  }

  // -- painting ------------------------------------------------------------------------------------
  paintBoard(context, width, height) {
    context.fillStyle = GROUND;
    context.fillRect(0, 0, width, height);
    dots(context, width, this.points, "#fde725", this.points.length > 4000 ? 1.6 : 2.2);
    const [x, y] = this.brush.map((value, d) => width * (0.5 + ((d ? -1 : 1) * value) / (2 * Math.PI)));
    context.strokeStyle = "#ffffffb0";
    context.beginPath();
    context.arc(x, y, 7, 0, 2 * Math.PI);
    context.stroke();
  }

  paintPicture(context, width, height) {
    context.fillStyle = GROUND;
    context.fillRect(0, 0, width, height);
    const low = Math.min(last - 1, Math.floor(this.level)), share = this.level - low;
    if (this.fields && this.shown.density) this.paintDensity(context, width, low, share);
    if (this.fields && this.shown.arrows) this.paintArrows(context, width, low, share);
    if (this.paths && this.shown.particles) {
      const [from, to] = [this.paths[low], this.paths[low + 1]];
      dots(context, width, from.map((x, i) => wrap(x + share * wrap(to[i] - x))), "#ffffffd0", 1.7);
    }
  }

  paintDensity(context, width, low, share) {
    const [from, to] = [this.fields[low].density, this.fields[low + 1].density];
    const pixels = this.image.getContext("2d"), image = pixels.createImageData(CELLS, CELLS);
    for (let i = 0; i < CELLS; i++)
      for (let j = 0; j < CELLS; j++) {
        const cell = i * CELLS + j, value = from[cell] + share * (to[cell] - from[cell]);
        const colour = 3 * Math.min(255, Math.round(255 * Math.sqrt(value / this.highest) * 0.85));
        const pixel = 4 * ((CELLS - 1 - j) * CELLS + i);
        for (let c = 0; c < 3; c++) image.data[pixel + c] = COLOURS[colour + c];
        image.data[pixel + 3] = 255;
      }
    pixels.putImageData(image, 0, 0);
    context.drawImage(this.image, 0, 0, width, width);
  }

  paintArrows(context, width, low, share) {
    const [from, to] = [this.fields[low].score, this.fields[low + 1].score], unit = width / (2 * Math.PI);
    context.strokeStyle = "#ffb066";
    context.lineWidth = 1.2;
    context.beginPath();
    for (let p = 0; p < from.length; p += 2) {
      const x = from[p] + share * (to[p] - from[p]), y = from[p + 1] + share * (to[p + 1] - from[p + 1]);
      const size = (0.8 * width) / ARROWS / (3 + Math.hypot(x, y));
      arrow(context, width / 2 + unit * this.feet[p], width / 2 - unit * this.feet[p + 1], size * x, -size * y);
    }
    context.stroke();
  }
}

function dots(context, width, points, colour, size) {
  context.fillStyle = colour;
  const unit = width / (2 * Math.PI);
  for (let p = 0; p < points.length; p += 2)
    context.fillRect(width / 2 + unit * points[p] - size / 2, width / 2 - unit * points[p + 1] - size / 2, size, size);
}

function arrow(context, x, y, dx, dy) {
  const tip = [x + dx, y + dy], back = 0.3;
  context.moveTo(x, y);
  context.lineTo(...tip);
  context.lineTo(tip[0] - back * (dx + 0.7 * dy), tip[1] - back * (dy - 0.7 * dx));
  context.moveTo(...tip);
  context.lineTo(tip[0] - back * (dx - 0.7 * dy), tip[1] - back * (dy + 0.7 * dx));
}

for (const home of document.querySelectorAll(".playground.torus.live")) {
  home.playground = new Playground(home);
  home.playground.preset("pinwheel");
}
