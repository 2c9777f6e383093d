// The chapters' three-component mixture on the circle, noised by Brownian motion: its density and
// score, also at complex points, its averages, its draws, and the zeros of the density.
import { normal, uniform, wrap } from "./flow.js";

const WEIGHTS = [0.3, 0.4, 0.3], MEANS = [-1.5, 0, 1.2], SCALES = [0.25, 0.3, 0.2];
const TURNS = [-3, -2, -1, 0, 1, 2, 3]; // copies of a component, up to t = 1

/** Density and its slope at x + i y after time t: four real numbers. */
export function law(t, x, y = 0) {
  let [f, g, df, dg] = [0, 0, 0, 0];
  WEIGHTS.forEach((weight, m) => {
    const variance = SCALES[m] ** 2 + 2 * t, height = weight / Math.sqrt(2 * Math.PI * variance);
    for (const turn of TURNS) {
      const gap = x - MEANS[m] - 2 * Math.PI * turn, exponent = (y * y - gap * gap) / (2 * variance);
      if (exponent < -700) continue;
      const size = height * Math.exp(exponent), angle = (-gap * y) / variance;
      const re = size * Math.cos(angle), im = size * Math.sin(angle);
      f += re;
      g += im;
      df -= (re * gap - im * y) / variance;
      dg -= (im * gap + re * y) / variance;
    }
  });
  return [f, g, df, dg];
}

/** Zeros of the density in the upper half-plane below `top`, by Newton's method from a grid;
 * the nearest to the real axis is first. */
export function zeros(t, top = 3) {
  const found = [];
  for (let i = 0; i < 40; i++)
    for (let j = 0; j < 10; j++) {
      const z = newton(t, ((2 * i + 1) / 40 - 1) * Math.PI, (top * (j + 0.5)) / 10);
      if (!z || z[1] < 1e-3 || z[1] > top) continue;
      const near = (other) => Math.hypot(wrap(other[0] - z[0]), other[1] - z[1]) < 1e-6;
      if (!found.some(near)) found.push(z);
    }
  return found.sort((a, b) => a[1] - b[1]);
}

function newton(t, x, y) {
  for (let i = 0; i < 40; i++) {
    const [f, g, df, dg] = law(t, x, y), size = df * df + dg * dg;
    const step = [(f * df + g * dg) / size, (g * df - f * dg) / size];
    x -= step[0];
    y -= step[1];
    if (!(Math.abs(y) < 10)) return null;
    if (Math.hypot(...step) < 1e-10) return [wrap(x), y];
  }
  return null;
}

/** `n` draws, pairs with zero as the second coordinate: the first n of one sequence. */
export function draws(n, seed = 1) {
  const random = uniform(seed), gauss = normal(random), points = new Float64Array(2 * n);
  for (let i = 0; i < n; i++) {
    const u = random(), m = u < WEIGHTS[0] ? 0 : u < WEIGHTS[0] + WEIGHTS[1] ? 1 : 2;
    points[2 * i] = wrap(MEANS[m] + SCALES[m] * gauss());
  }
  return points;
}

/** The exact averages, as `average` gives those of points. */
export function exactAverages(reach) {
  const width = 2 * reach + 1, origin = reach * width + reach;
  const cos = new Float64Array(width * width), sin = new Float64Array(width * width);
  for (let m = -reach; m <= reach; m++)
    WEIGHTS.forEach((weight, j) => {
      const size = weight * Math.exp(-((m * SCALES[j]) ** 2) / 2);
      cos[origin + m * width] += size * Math.cos(m * MEANS[j]);
      sin[origin + m * width] += size * Math.sin(m * MEANS[j]);
    });
  return { n: Infinity, reach, width, origin, cos, sin };
}
