// The double well dY = (Y - Y^3) dt + dW over a window: the Gaussian of the drift linearised at the
// start, and the true law, interpolated in a table that the build solves for.

const ORDER = 5; // nodes of an interpolation
const FINE = Array.from({ length: 600 }, (_, i) => (2 * i + 1) / 600 - 1); // midpoints of [-1, 1]
const grow = (x) => (x ? Math.expm1(x) / x : 1);

export const potential = (y) => y ** 4 / 4 - y ** 2 / 2;

/** Density of a normal law. */
export const normal = (x, mean, variance) =>
  Math.exp(-((x - mean) ** 2) / (2 * variance)) / Math.sqrt(2 * Math.PI * variance);

/** Mean and variance of the process linearised at y, after a window h. */
export function linearised(y, h) {
  const f = y - y ** 3, J = 1 - 3 * y ** 2;
  return { mean: y + h * grow(J * h) * f, variance: h * grow(2 * J * h) };
}

/** What is left of the mean's bias in short windows, h^2 |f''| / 4. */
export const leadingBias = (y, h) => 1.5 * Math.abs(y) * h ** 2;

/** Pairs of a node and its weight, of Lagrange's polynomial at a place among `count` nodes. */
function lagrange(place, count) {
  const first = Math.min(count - ORDER, Math.max(0, Math.round(place) - (ORDER >> 1)));
  const nodes = Array.from({ length: ORDER }, (_, i) => first + i);
  const factor = (i) => (product, j) => (i === j ? product : (product * (place - j)) / (i - j));
  return nodes.map((i) => [i, nodes.reduce(factor(i), 1)]);
}

/** The table of transitions.json; starts and windows between its ends are allowed. */
export class Table {
  constructor({ starts, windows, places, height, bias, variance, shape }) {
    Object.assign(this, { starts, windows, places, height, bias, variance, shape });
    [this.most, this.low, this.high] = [starts.at(-1), windows[0], windows.at(-1)];
    const size = starts.length * windows.length;
    if (bias.length !== size || variance.length !== size || shape.length !== size * places.length)
      throw new RangeError(`expected ${size} laws, found ${bias.length}, ${variance.length}, ${shape.length} numbers`);
  }

  /** Pairs of a row and its weight. */
  rows(y, h) {
    if (!(Math.abs(y) <= this.most && h >= this.low && h <= this.high))
      throw new RangeError(`expected |start| up to ${this.most}, window ${this.low} to ${this.high}, found ${y}, ${h}`);
    const count = this.windows.length, start = (Math.abs(y) / this.most) * (this.starts.length - 1);
    const window = (Math.log(h / this.low) / Math.log(this.high / this.low)) * (count - 1);
    return lagrange(start, this.starts.length).flatMap(([i, u]) =>
      lagrange(window, count).map(([j, v]) => [i * count + j, u * v]));
  }

  /** True mean and variance, and the bias m - E Y_h of the linearised mean. */
  moments(y, h, rows = this.rows(y, h)) {
    const sum = (values) => rows.reduce((total, [row, weight]) => total + weight * values[row], 0);
    const bias = Math.sign(y) * h ** 2 * sum(this.bias);
    return { mean: linearised(y, h).mean - bias, variance: h * sum(this.variance), bias };
  }

  /** The moments, the true density, a function, and its distance in total variation from the
   * Gaussian's. */
  law(y, h) {
    const rows = this.rows(y, h), moments = this.moments(y, h, rows), { places, shape, height } = this;
    const side = y < 0 ? -1 : 1, scale = Math.sqrt(moments.variance), gauss = linearised(y, h);
    const more = places.map((_, k) =>
      height * rows.reduce((total, [row, weight]) => total + weight * shape[row * places.length + k], 0));
    const reach = places.at(-1), gap = places[1] - places[0];
    const density = (x) => {
      const z = (side * (x - moments.mean)) / scale;
      if (Math.abs(z) > reach) return 0;
      const extra = lagrange((z + reach) / gap, places.length).reduce((total, [k, weight]) => total + weight * more[k], 0);
      return Math.max(0, normal(z, 0, 1) + extra) / scale;
    };
    const excess = (x) => Math.max(0, density(x) - normal(x, gauss.mean, gauss.variance));
    const variation = FINE.reduce((total, u) => total + excess(moments.mean + u * reach * scale), 0);
    return { ...moments, density, variation: (2 * reach * scale * variation) / FINE.length };
  }
}
