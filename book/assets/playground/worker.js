// Fits and carries points away from the page's own thread. A request has `points` (pairs), `count`
// functions, the `rule` of shrinkage, whether points are carried with `noise`, and a number `id`;
// the answers are what the page draws at each level: fields first, then particles.
import { carry, density, levels, normal, score, uniform } from "./flow.js";
import { fit } from "./spectral.js";

export const TIMES = levels(0.003, 4, 40), PARTICLES = 2000, CELLS = 80, ARROWS = 15;

/** The centres of size x size cells of the square, pairs. */
export function centres(size) {
  const at = (i) => ((2 * i + 1) / size - 1) * Math.PI;
  return Float64Array.from({ length: 2 * size * size }, (_, p) =>
    at(p % 2 ? (p >> 1) % size : Math.floor((p >> 1) / size)));
}

/** Density at the cells and score at the arrows' feet, for every level. */
export function fields(made) {
  const feet = centres(ARROWS);
  return made.coefficients.map((alpha, i) => ({
    density: Float32Array.from(density(made.averages, made.times[i], made, CELLS)),
    score: Float32Array.from(score(made.waves, alpha, feet)),
  }));
}

/** Uniform points, carried through all levels. */
export function particles(made, noise, seed = 1) {
  const random = uniform(seed);
  const start = Float64Array.from({ length: 2 * PARTICLES }, () => (2 * random() - 1) * Math.PI);
  const paths = carry(made, start, noise ? normal(random) : null);
  return paths.map((points) => Float32Array.from(points));
}

function answer({ id, points, count, rule, noise }) {
  const began = performance.now(), made = fit(points, count, TIMES, rule);
  const milliseconds = performance.now() - began, { heat, mix, noisy } = made;
  postMessage({ id, fields: fields(made), heat, mix, noisy, milliseconds });
  postMessage({ id, paths: particles(made, noise) });
}

if (typeof WorkerGlobalScope !== "undefined") {
  addEventListener("message", ({ data }) => {
    try {
      answer(data);
    } catch (error) {
      postMessage({ id: data.id, error: error.message });
    }
  });
}
