// Operator-informed score matching on the torus, in closed form: what `markovscore.fit_spectral`
// does there, with the same functions in the same order. Points are pairs x, y one after the other.

export const JITTER = 1e-9; // share of the uniform law's energy that is added to A_t
const FLAT = 1e-3; // the standard deviation that directions without scatter get
const MAX_ENERGY_RATIO = 4, MIN_NOISE_SHARE = 0.1;

/** The `count / 2` shortest k of a half-plane of Z^2 (first non-zero entry positive), ties in
 * lexicographic order: cos(k.x) and sin(k.x) are `count` functions. `reach`: the largest entry.
 * `dim` 1: waves of the first coordinate alone. */
export function makeWaves(count, dim = 2) {
  const half = count / 2, limit = dim === 1 ? half : Math.ceil(Math.sqrt(count / Math.PI)) + 2;
  const found = [];
  for (let a = 0; a <= limit; a++)
    for (let b = dim === 1 ? 0 : -limit; b <= (dim === 1 ? 0 : limit); b++)
      if (a > 0 || b > 0) found.push([a, b, a * a + b * b]);
  found.sort((p, q) => p[2] - q[2] || p[0] - q[0] || p[1] - q[1]);
  const kept = found.slice(0, half);
  return {
    count, length: half, dim,
    first: Int32Array.from(kept, (k) => k[0]),
    second: Int32Array.from(kept, (k) => k[1]),
    square: Float64Array.from(kept, (k) => k[2]),
    reach: Math.max(...kept.flatMap((k) => [Math.abs(k[0]), Math.abs(k[1])])),
  };
}

/** cos(a x), a = 0..reach, into `out`, then sin(a x), a = 1..reach. */
function features(x, reach, out) {
  const c = Math.cos(x), s = Math.sin(x);
  out[0] = 1;
  for (let a = 1, re = 1, im = 0; a <= reach; a++) {
    const next = re * c - im * s;
    im = re * s + im * c;
    out[a] = re = next;
    out[reach + a] = im;
  }
}

/** The averages C(m) + i S(m) of e^{i m.x} over points, for all m up to twice the waves' reach:
 * all that a fit reads of the data. The place of m is `origin + m_1 width + m_2`. */
export function average(points, waves) {
  if (waves.dim === 1) return averageOnCircle(points, waves);
  const reach = 2 * waves.reach, width = 2 * reach + 1, n = points.length / 2;
  const products = new Float64Array(width * width);
  const f = new Float64Array(width), g = new Float64Array(width);
  for (let p = 0; p < points.length; p += 2) {
    features(points[p], reach, f);
    features(points[p + 1], reach, g);
    for (let a = 0, row = 0; a < width; a++, row += width) {
      const left = f[a];
      for (let b = 0; b < width; b++) products[row + b] += left * g[b];
    }
  }
  const cos = new Float64Array(width * width), sin = new Float64Array(width * width);
  for (let a = -reach; a <= reach; a++)
    for (let b = -reach; b <= reach; b++) {
      const place = (a + reach) * width + b + reach, sign = Math.sign(a) * Math.sign(b);
      const i = Math.abs(a), j = Math.abs(b);
      const ss = i && j ? products[(reach + i) * width + reach + j] : 0;
      const sc = i ? products[(reach + i) * width + j] : 0;
      const cs = j ? products[i * width + reach + j] : 0;
      cos[place] = (products[i * width + j] - sign * ss) / n;
      sin[place] = (Math.sign(a) * sc + Math.sign(b) * cs) / n;
    }
  return { n, reach, width, origin: reach * width + reach, cos, sin };
}

/** The same where only m_1 varies; the other places stay empty. */
function averageOnCircle(points, waves) {
  const reach = 2 * waves.reach, width = 2 * reach + 1, n = points.length / 2;
  const cos = new Float64Array(width * width), sin = new Float64Array(width * width);
  const origin = reach * width + reach, f = new Float64Array(width);
  for (let p = 0; p < points.length; p += 2) {
    features(points[p], reach, f);
    for (let a = 0; a <= reach; a++) {
      cos[origin + a * width] += f[a] / n;
      if (a) sin[origin + a * width] += f[reach + a] / n;
    }
  }
  for (let a = 1; a <= reach; a++) {
    cos[origin - a * width] = cos[origin + a * width];
    sin[origin - a * width] = -sin[origin + a * width];
  }
  return { n, reach, width, origin, cos, sin };
}

/** The averages at time t of the law `mix P*_heat rho_0 + (1 - mix) pi`. */
export function damp(averages, t, { mix, heat }) {
  const { reach, width, origin } = averages;
  const fade = Float64Array.from({ length: reach + 1 }, (_, a) => Math.exp(-a * a * (t + heat)));
  const cos = new Float64Array(width * width), sin = new Float64Array(width * width);
  for (let a = 0, place = 0; a < width; a++)
    for (let b = 0; b < width; b++, place++) {
      const factor = mix * fade[Math.abs(a - reach)] * fade[Math.abs(b - reach)];
      cos[place] = factor * averages.cos[place];
      sin[place] = factor * averages.sin[place];
    }
  cos[origin] = 1;
  return { cos, sin };
}

/** `A_t` (rows one after the other, on and below the diagonal) and `b_t`. */
export function system(averages, waves, t, shrinkage, jitter = JITTER) {
  const { cos, sin } = damp(averages, t, shrinkage);
  const { length, count, first, second, square } = waves, { origin, width } = averages;
  const A = new Float64Array(count * count), b = new Float64Array(count);
  const offset = Int32Array.from(first, (a, k) => a * width + second[k]);
  for (let j = 0; j < length; j++) {
    for (let k = 0; k < length; k++) {
      const dot = first[j] * first[k] + second[j] * second[k];
      const less = origin + offset[j] - offset[k], more = origin + offset[j] + offset[k];
      if (k <= j) {
        A[j * count + k] = dot * (cos[less] - cos[more]);
        A[(length + j) * count + length + k] = dot * (cos[less] + cos[more]);
      }
      A[(length + j) * count + k] = dot * (sin[less] - sin[more]);
    }
    A[j * count + j] += jitter * square[j];
    A[(length + j) * (count + 1)] += jitter * square[j];
    b[j] = Math.SQRT2 * square[j] * cos[origin + offset[j]];
    b[length + j] = Math.SQRT2 * square[j] * sin[origin + offset[j]];
  }
  return { A, b };
}

/** `alpha_t = A_t^{-1} b_t`. Where rounding leaves A_t indefinite the jitter is raised. */
export function solveAt(averages, waves, t, shrinkage, ridge = JITTER) {
  for (let jitter = ridge; ; jitter *= 10) {
    const { A, b } = system(averages, waves, t, shrinkage, jitter);
    if (cholesky(A, waves.count)) return { factor: A, slope: b, alpha: solve(A, b) };
    if (!(jitter < 1)) throw new RangeError("expected averages of finite points");
  }
}

/** The lower factor of A, in its place, four columns at a time; false where there is none. */
export function cholesky(A, n) {
  for (let j = 0; j < n; j += 4) {
    const end = Math.min(j + 4, n);
    for (let c = j; c < end; c++) {
      for (let r = c; r < end; r++) A[r * n + c] -= dot(A, r * n, c * n, c);
      if (!(A[c * n + c] > 0)) return false;
      A[c * n + c] = Math.sqrt(A[c * n + c]);
      for (let r = c + 1; r < end; r++) A[r * n + c] /= A[c * n + c];
    }
    if (end === j + 4) panel(A, n, j);
  }
  return true;
}

function dot(A, p, q, length) {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += A[p + i] * A[q + i];
  return sum;
}

/** Columns j to j + 3 of the factor below their own rows, two rows at a time. */
function panel(A, n, j) {
  let row = j + 4;
  for (; row + 1 < n; row += 2) {
    const p0 = row * n, p1 = p0 + n, r0 = j * n, r1 = r0 + n, r2 = r1 + n, r3 = r2 + n;
    let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
    for (let p = 0; p < j; p++) {
      const a = A[p0 + p], b = A[p1 + p];
      const c0 = A[r0 + p], c1 = A[r1 + p], c2 = A[r2 + p], c3 = A[r3 + p];
      a0 += a * c0, a1 += a * c1, a2 += a * c2, a3 += a * c3;
      b0 += b * c0, b1 += b * c1, b2 += b * c2, b3 += b * c3;
    }
    finish(A, n, j, p0, a0, a1, a2, a3);
    finish(A, n, j, p1, b0, b1, b2, b3);
  }
  if (row < n) {
    const sums = [0, 1, 2, 3].map((c) => dot(A, row * n, (j + c) * n, j));
    finish(A, n, j, row * n, ...sums);
  }
}

/** Four entries of the row that starts at p, less the sums over the columns before j. */
function finish(A, n, j, p, s0, s1, s2, s3) {
  const r0 = j * n + j, r1 = r0 + n, r2 = r1 + n, r3 = r2 + n;
  const x0 = (A[p + j] - s0) / A[r0];
  const x1 = (A[p + j + 1] - s1 - x0 * A[r1]) / A[r1 + 1];
  const x2 = (A[p + j + 2] - s2 - x0 * A[r2] - x1 * A[r2 + 1]) / A[r2 + 2];
  const s = A[p + j + 3] - s3 - x0 * A[r3] - x1 * A[r3 + 1] - x2 * A[r3 + 2];
  A[p + j] = x0;
  A[p + j + 1] = x1;
  A[p + j + 2] = x2;
  A[p + j + 3] = s / A[r3 + 3];
}

/** `L^{-1} b`. */
function forward(L, b) {
  const n = b.length, half = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    let sum = b[i];
    for (let p = 0; p < i; p++) sum -= L[i * n + p] * half[p];
    half[i] = sum / L[i * n + i];
  }
  return half;
}

/** `(L L^T)^{-1} b`. */
function solve(L, b) {
  const x = forward(L, b), n = b.length;
  for (let i = n - 1; i >= 0; i--) {
    const value = (x[i] /= L[i * n + i]);
    for (let p = 0; p < i; p++) x[p] -= L[i * n + p] * value;
  }
  return x;
}

/** The fit at increasing times: coefficients (T, K), cosines first; what the moments were shrunk
 * by; and whether they support so many functions. `rule`: a name of `shrink`, or what it gives. */
export function fit(points, count, times, rule, { dim = 2, ridge = JITTER } = {}) {
  const waves = makeWaves(count, dim), averages = average(points, waves);
  const shrinkage = typeof rule === "string" ? shrink(averages, waves, rule) : { ...rule };
  shrinkage.heat += flatness(points, dim);
  const coefficients = [];
  let noisy = null;
  for (const t of times) {
    const { factor, slope, alpha } = solveAt(averages, waves, t, shrinkage, ridge);
    noisy ??= shrinkage.heat === 0 && isNoisy(averages, waves, t, factor, slope);
    coefficients.push(alpha);
  }
  return { waves, averages, times: Float64Array.from(times), coefficients, ...shrinkage, noisy };
}

/** The heat that points without scatter along some axis get. */
function flatness(points, dim) {
  const n = points.length / 2, mean = [0, 0], sum = [0, 0, 0];
  for (let p = 0; p < points.length; p++) mean[p % 2] += points[p] / n;
  for (let p = 0; p < points.length; p += 2) {
    const x = points[p] - mean[0], y = points[p + 1] - mean[1];
    sum[0] += (x * x) / n, sum[1] += (x * y) / n, sum[2] += (y * y) / n;
  }
  const [a, b, c] = sum, gap = Math.hypot((a - c) / 2, b);
  const least = dim === 1 ? a : (a + c) / 2 - gap;
  return least <= FLAT ** 2 ? 0.5 * FLAT ** 2 : 0;
}

/** The distinct m among sums and differences of waves, by |m|^2: how many real functions, and the
 * sum of their squared averages. */
function spectrum(averages, waves) {
  const { origin, width, cos, sin } = averages, { first, second, length } = waves;
  const seen = new Uint8Array(cos.length), groups = new Map();
  const add = (a, b) => {
    const place = origin + a * width + b, square = a * a + b * b;
    if (!square || seen[place]) return;
    seen[place] = seen[2 * origin - place] = 1;
    const group = groups.get(square) ?? { rate: square, count: 0, energy: 0 };
    group.count += 2;
    group.energy += 2 * (cos[place] ** 2 + sin[place] ** 2);
    groups.set(square, group);
  };
  for (let j = 0; j < length; j++) {
    add(first[j], second[j]);
    for (let k = 0; k <= j; k++) {
      add(first[j] - first[k], second[j] - second[k]);
      add(first[j] + first[k], second[j] + second[k]);
    }
  }
  return [...groups.values()];
}

/** `{mix, heat}` of "none", "heat" (Stein's unbiased risk), or "heat+1" (and one observation from
 * the uniform law). */
export function shrink(averages, waves, rule) {
  if (rule === "none") return { mix: 1, heat: 0 };
  if (rule !== "heat" && rule !== "heat+1")
    throw new RangeError(`shrinkage: expected none, heat or heat+1, found ${rule}`);
  const mix = rule === "heat" ? 1 : 1 - 1 / averages.n;
  return { mix, heat: steinHeat(spectrum(averages, waves), averages.n) };
}

function steinHeat(groups, n) {
  const scatter = Math.max(1, n - 1);
  const terms = groups.map(({ rate, count, energy }) => ({
    rate, energy, noise: Math.max(0, count - energy) / scatter,
  }));
  const risk = (heat) => terms.reduce((sum, { rate, energy, noise }) => {
    const decay = Math.exp(-rate * heat);
    return sum + (1 - decay) ** 2 * (energy - noise) + decay ** 2 * noise;
  }, 0);
  if (terms.every(({ noise }) => noise === 0)) return 0;
  const rates = terms.map(({ rate }) => rate);
  const low = Math.log(1e-6 / Math.max(...rates)), high = Math.log(40 / Math.min(...rates));
  const grid = Array.from({ length: 200 }, (_, i) => low + ((high - low) * i) / 199);
  const values = grid.map((x) => risk(Math.exp(x)));
  const best = values.indexOf(Math.min(...values));
  const ends = [grid[Math.max(0, best - 1)], grid[Math.min(199, best + 1)]];
  const polished = minimum((x) => risk(Math.exp(x)), ...ends);
  const candidates = [0, Math.exp(polished), Math.exp(grid[best])];
  return candidates.reduce((a, b) => (risk(b) < risk(a) ? b : a));
}

/** Brent's minimum of f between a and b (parabolas, else golden sections), to 1e-6. */
function minimum(f, a, b) {
  const golden = (3 - Math.sqrt(5)) / 2, tolerance = (x) => 1.5e-8 * Math.abs(x) + 1e-6 / 3;
  let x = a + golden * (b - a), w = x, v = x, step = 0, before = 0;
  let fx = f(x), fw = fx, fv = fx;
  for (let i = 0; i < 100; i++) {
    const middle = (a + b) / 2, tol = tolerance(x);
    if (Math.abs(x - middle) <= 2 * tol - (b - a) / 2) break;
    const r = (x - w) * (fx - fv), q = (x - v) * (fx - fw);
    let p = (x - v) * q - (x - w) * r, scale = 2 * (q - r);
    if (scale > 0) p = -p;
    scale = Math.abs(scale);
    const inside = p > scale * (a - x) && p < scale * (b - x);
    if (Math.abs(before) > tol && inside && Math.abs(p) < Math.abs(scale * before) / 2) {
      [before, step] = [step, p / scale];
      const near = x + step - a < 2 * tol || b - x - step < 2 * tol;
      if (near) step = tol * (Math.sign(middle - x) || 1);
    } else {
      before = x >= middle ? a - x : b - x;
      step = golden * before;
    }
    const u = x + (Math.sign(step) || 1) * Math.max(Math.abs(step), tol), fu = f(u);
    if (fu <= fx) {
      if (u >= x) a = x; else b = x;
      [v, fv, w, fw, x, fx] = [w, fw, x, fx, u, fu];
    } else {
      if (u < x) a = u; else b = u;
      if (fu <= fw || w === x) [v, fv, w, fw] = [w, fw, u, fu];
      else if (fu <= fv || v === x || v === w) [v, fv] = [u, fu];
    }
  }
  return x;
}

/** Whether the fitted energy b^T A^{-1} b is far above that of heat-shrunk moments, by no more than
 * the noise of the averages can give. */
function isNoisy(averages, waves, t, factor, slope) {
  const energy = (L, b) => forward(L, b).reduce((sum, value) => sum + value * value, 0);
  const found = energy(factor, slope), heat = shrink(averages, waves, "heat");
  const smooth = solveAt(averages, waves, t, heat), expected = energy(smooth.factor, smooth.slope);
  if (found <= MAX_ENERGY_RATIO * expected || found - expected < 0.1) return false;
  const { count, length, square, first, second } = waves, { n, origin, width } = averages;
  let scattered = 0;
  for (let i = 0; i < count; i++) {
    const k = i % length, place = origin + first[k] * width + second[k];
    const certain = averages.cos[place] ** 2 + averages.sin[place] ** 2;
    const error = Math.sqrt(Math.max(0, 1 - certain) / Math.max(1, n - 1));
    const column = new Float64Array(count);
    column[i] = square[k] * Math.exp(-square[k] * t) * error;
    scattered += energy(factor, column);
  }
  return scattered >= MIN_NOISE_SHARE * (found - expected);
}
