// What a fit is good for: scores at points, densities on a grid, and points carried from noise to
// the data by the probability flow or by the reverse equation.
import { damp } from "./spectral.js";

/** Log-spaced times. */
export function levels(first, last, count) {
  const ratio = Math.log(last / first) / (count - 1);
  return Float64Array.from({ length: count }, (_, i) => first * Math.exp(ratio * i));
}

/** e^{i a x}, a = 0..reach, into `re` and `im`. */
function powers(x, reach, re, im) {
  const c = Math.cos(x), s = Math.sin(x);
  re[0] = 1;
  im[0] = 0;
  for (let a = 1; a <= reach; a++) {
    re[a] = re[a - 1] * c - im[a - 1] * s;
    im[a] = re[a - 1] * s + im[a - 1] * c;
  }
}

function buffers(reach) {
  return Array.from({ length: 4 }, () => new Float64Array(reach + 1));
}

/** The score `sum_k alpha_k grad phi_k` at points: pairs, as these. */
export function score(waves, alpha, points, out = new Float64Array(points.length)) {
  const { first, second, length, reach } = waves, [c1, s1, c2, s2] = buffers(reach);
  for (let p = 0; p < points.length; p += 2) {
    powers(points[p], reach, c1, s1);
    powers(points[p + 1], reach, c2, s2);
    let x = 0, y = 0;
    for (let k = 0; k < length; k++) {
      const a = first[k], b = second[k];
      const re = c2[b < 0 ? -b : b], im = b < 0 ? -s2[-b] : s2[b];
      const cos = c1[a] * re - s1[a] * im, sin = s1[a] * re + c1[a] * im;
      const slope = alpha[length + k] * cos - alpha[k] * sin;
      x += a * slope;
      y += b * slope;
    }
    out[p] = Math.SQRT2 * x;
    out[p + 1] = Math.SQRT2 * y;
  }
  return out;
}

/** The density `sum_m mix e^{-|m|^2 (t + heat)} c(m) e^{-i m.x} / (2 pi)^2`, |m| up to the reach of
 * the averages, at the centres of size x size cells of the square, columns of equal x one after the
 * other: the law whose averages the fit reads. What truncation makes negative is zero. */
export function density(averages, t, shrinkage, size) {
  const { cos, sin } = damp(averages, t, shrinkage), { reach, width } = averages;
  const [c1, s1, c2, s2] = buffers(reach), values = new Float64Array(size * size);
  const re = new Float64Array(reach + 1), im = new Float64Array(reach + 1);
  const centre = (i) => ((2 * i + 1) / size - 1) * Math.PI;
  for (let i = 0; i < size; i++) {
    powers(centre(i), reach, c1, s1);
    for (let b = 0; b <= reach; b++) {
      const across = Math.floor(Math.sqrt(reach * reach - b * b));
      let [p, q] = [0, 0];
      for (let a = -across; a <= across; a++) {
        const c = cos[(a + reach) * width + reach + b], s = sin[(a + reach) * width + reach + b];
        const x = c1[a < 0 ? -a : a], y = a < 0 ? -s1[-a] : s1[a];
        p += c * x + s * y;
        q += s * x - c * y;
      }
      re[b] = b ? 2 * p : p; // m and -m
      im[b] = 2 * q;
    }
    for (let j = 0; j < size; j++) {
      powers(centre(j), reach, c2, s2);
      let sum = re[0];
      for (let b = 1; b <= reach; b++) sum += re[b] * c2[b] + im[b] * s2[b];
      values[i * size + j] = Math.max(0, sum) / (4 * Math.PI * Math.PI);
    }
  }
  return values;
}

/** Uniform numbers in [0, 1) from a seed: the same ones on every machine. */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

/** Standard normal numbers made of uniform ones. */
export function normal(random) {
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** The point of [-pi, pi) that stands for x. */
export function wrap(x) {
  return x - 2 * Math.PI * Math.floor(x / (2 * Math.PI) + 0.5);
}

/** One step of Heun's method down the probability flow dx/dt = -s, between two fitted levels. */
function flowStep(fit, x, upper) {
  const h = fit.times[upper] - fit.times[upper - 1];
  const start = score(fit.waves, fit.coefficients[upper], x);
  const end = score(fit.waves, fit.coefficients[upper - 1], x.map((v, i) => v + h * start[i]));
  return x.map((v, i) => wrap(v + (h / 2) * (start[i] + end[i])));
}

/** The reverse equation dx = -2 s dt + sqrt2 dW backwards in time, in equal steps between two
 * fitted levels, first order. */
function noisyStep(fit, x, upper, gauss, steps = 6) {
  const h = (fit.times[upper] - fit.times[upper - 1]) / steps, scale = Math.sqrt(2 * h);
  for (let i = 0; i < steps; i++) {
    const [low, high] = [fit.coefficients[upper - 1], fit.coefficients[upper]];
    const alpha = high.map((value, k) => value + (i / steps) * (low[k] - value));
    const pull = score(fit.waves, alpha, x);
    x = x.map((v, k) => wrap(v + 2 * h * pull[k] + scale * gauss()));
  }
  return x;
}

/** Points at every level, from the last one (where they are given) to the first: (T, 2n). */
export function carry(fit, start, gauss = null) {
  const found = new Array(fit.times.length);
  found[found.length - 1] = Float64Array.from(start);
  for (let upper = found.length - 1; upper > 0; upper--)
    found[upper - 1] = gauss
      ? noisyStep(fit, found[upper], upper, gauss)
      : flowStep(fit, found[upper], upper);
  return found;
}
