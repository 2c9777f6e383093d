// The page's fit is the package's: on fixtures that test_playground.py writes with Python.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { exactAverages, law, zeros } from "../../book/assets/playground/circle.js";
import { errors } from "../../book/assets/playground/estimator.js";
import { carry, density, levels, normal, score, uniform } from "../../book/assets/playground/flow.js";
import { average, cholesky, fit, makeWaves, shrink } from "../../book/assets/playground/spectral.js";

const { fits: fixtures, singular, law: exact } = JSON.parse(readFileSync(process.env.PLAYGROUND_FIXTURES, "utf-8"));
const TIMES = levels(0.003, 4, 12);

function distance(found, expected) {
  const scale = Math.max(...expected.map(Math.abs));
  return Math.max(...expected.map((value, i) => Math.abs(value - found[i]))) / scale;
}

function blob(n, spread, random = uniform(3)) {
  const gauss = normal(random);
  return Float64Array.from({ length: 2 * n }, () => spread * gauss());
}

test("there are ten fixtures", () => assert.equal(fixtures.length, 10));

for (const given of fixtures) {
  const { name, points, count, times, rule, dim } = given;
  test(`${name}: functions, heat, coefficients, scores and flow are Python's`, () => {
    // The risk of the heat is flat at its least value, so that Python finds the place to 1e-6.
    const { mix, heat } = shrink(average(points, makeWaves(count, dim)), makeWaves(count, dim), rule);
    assert.equal(mix, given.mix);
    assert.ok(Math.abs(heat - given.heat) <= 1e-6 * given.heat);
    const shrunk = { mix, heat: given.heat };
    const made = fit(points, count, times, shrunk, { dim });
    const { first, second } = made.waves;
    const waves = given.waves.map((k) => (dim === 1 ? [k[0], 0] : k));
    assert.deepEqual(Array.from(first, (a, i) => [a, second[i]]), waves);
    given.coefficients.forEach((row, i) => {
      assert.ok(distance(made.coefficients[i], row) < 1e-8, `level ${i}`);
    });
    const last = made.coefficients[0];
    assert.ok(distance(score(made.waves, last, given.places), given.scores) < 1e-8);
    assert.ok(distance(carry(made, given.places)[0], given.carried) < 1e-8);
    const other = fit(points, count, times, shrunk, { dim, ridge: 1e-3 }); // the control
    assert.ok(distance(other.coefficients[0], given.coefficients[0]) > 1e-3);
  });
}

for (const { name, points, count, times, dim, mix, heat, coefficients, conditions } of singular)
  test(`${name}, nearly singular: as far as rounding lets two solutions differ`, () => {
    const made = fit(points, count, times, { mix, heat }, { dim });
    coefficients.forEach((row, i) => {
      const bar = Math.max(1e-8, conditions[i] * Number.EPSILON);
      assert.ok(distance(made.coefficients[i], row) < bar, `level ${i}`);
    });
  });

test("a factor times its transpose is the matrix, whatever the order", () => {
  for (const n of [1, 2, 5, 6, 11, 16]) {
    const random = uniform(n), B = Float64Array.from({ length: n * n }, random);
    const A = new Float64Array(n * n);
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++)
        for (let p = 0; p < n; p++) A[i * n + j] += B[i * n + p] * B[j * n + p] + (i === j);
    const L = A.slice();
    assert.ok(cholesky(L, n));
    for (let i = 0; i < n; i++)
      for (let j = 0; j <= i; j++) {
        let sum = 0;
        for (let p = 0; p <= j; p++) sum += L[i * n + p] * L[j * n + p];
        assert.ok(Math.abs(sum - A[i * n + j]) < 1e-12 * n * n);
      }
  }
  assert.ok(!cholesky(Float64Array.of(1, 2, 2, 1), 2));
});

test("the density has mass one, and the score is the slope of its logarithm", () => {
  const t = 1, size = 400, h = (2 * Math.PI) / size;
  const made = fit(blob(500, 0.8), 200, [t], "heat+1"), rho = density(made.averages, t, made, size);
  assert.ok(Math.abs(rho.reduce((a, b) => a + b) * h * h - 1) < 1e-9);
  for (const [i, j] of [[200, 200], [150, 230], [260, 180]]) {
    const at = [i, j].map((c) => ((2 * c + 1) / size - 1) * Math.PI);
    const log = (a, b) => Math.log(rho[a * size + b]);
    const slope = [log(i + 1, j) - log(i - 1, j), log(i, j + 1) - log(i, j - 1)];
    const found = score(made.waves, made.coefficients[0], Float64Array.from(at));
    slope.forEach((value, d) => assert.ok(Math.abs(value / (2 * h) - found[d]) < 1e-4));
  }
});

test("both samplers give back the mean direction of the data, to six standard errors", () => {
  const points = blob(2000, 0.4), random = uniform(7), gauss = normal(random), n = 2000;
  const made = fit(points, 100, levels(0.003, 4, 40), "heat");
  const start = Float64Array.from({ length: 2 * n }, () => (2 * random() - 1) * Math.PI);
  const shrunk = Math.exp(-(0.003 + made.heat));
  for (const noise of [null, gauss]) {
    const found = carry(made, start, noise)[0];
    for (const d of [0, 1]) {
      const mean = (x, f) => x.reduce((sum, v, i) => sum + (i % 2 === d ? f(v) : 0), 0) * (2 / x.length);
      const expected = shrunk * mean(points, Math.cos), seen = mean(found, Math.cos);
      const error = Math.sqrt((mean(found, (v) => Math.cos(v) ** 2) - seen ** 2) / n);
      assert.ok(Math.abs(seen - expected) < 6 * error, `${seen} for ${expected} +- ${error}`);
      assert.ok(Math.abs(mean(start, Math.cos) - expected) > 12 * error);
    }
  }
});

test("one point, a line and a full canvas are fitted, and all that comes out is finite", () => {
  const random = uniform(5), full = Float64Array.from({ length: 8000 }, () => (2 * random() - 1) * Math.PI);
  const line = Float64Array.from({ length: 400 }, (_, i) => (i % 2 ? 0.5 : -2 + i / 100));
  const start = full.slice(0, 100);
  for (const points of [Float64Array.of(1, -1), line, full])
    for (const rule of ["none", "heat", "heat+1"])
      for (const count of [8, 200]) {
        const made = fit(points, count, TIMES, rule), carried = carry(made, start)[0];
        assert.ok(carried.every(Number.isFinite));
        assert.ok(density(made.averages, TIMES[0], made, 20).every(Number.isFinite));
      }
});

test("more functions than the points support are noticed, the heat is not", () => {
  const few = blob(60, 1.2);
  assert.ok(fit(few, 200, TIMES, "none").noisy);
  assert.ok(!fit(few, 200, TIMES, "heat").noisy);
  assert.ok(!fit(blob(20_000, 1.2), 40, TIMES, "none").noisy);
});

test("points that are no numbers, and unknown rules, are refused", () => {
  assert.throws(() => fit(Float64Array.of(NaN, 0, 1, 1), 8, TIMES, "none"), /finite/);
  assert.throws(() => fit(blob(50, 1), 8, TIMES, "james"), /expected none, heat/);
  assert.equal(makeWaves(8).length, 4);
});

test("the law on the circle, and its averages, are Python's", () => {
  exact.places.forEach((x, i) => {
    const [density, , slope] = law(exact.time, x);
    assert.ok(Math.abs(density / exact.density[i] - 1) < 1e-9);
    assert.ok(Math.abs(slope / density - exact.score[i]) < 1e-8 * Math.abs(exact.score[i]) + 1e-8);
  });
  const { cos, sin, origin, width } = exactAverages(8), size = 4000;
  for (let m = 0; m <= 8; m++) {
    let [re, im] = [0, 0];
    for (let i = 0; i < size; i++) {
      const x = (2 * Math.PI * i) / size, rho = law(0, x)[0] * ((2 * Math.PI) / size);
      re += rho * Math.cos(m * x);
      im += rho * Math.sin(m * x);
    }
    assert.ok(Math.hypot(re - cos[origin + m * width], im - sin[origin + m * width]) < 1e-12);
  }
});

test("zeros are zeros, and the nearest one is the rate at which the error falls", () => {
  for (const t of [0.1, 0.2, 0.5]) {
    const found = zeros(t);
    for (const [x, y] of found) assert.ok(Math.hypot(...law(t, x, y).slice(0, 2)) < 1e-9);
    const truth = Array.from({ length: 512 }, (_, i) => law(t, ((2 * i + 1) / 512 - 1) * Math.PI));
    const rows = errors(exactAverages(60), t, 1e-14, truth);
    const used = rows.filter(({ error }) => error < 2e-2 && error > 1e-6);
    const [a, b] = [used[0], used.at(-1)];
    const rate = Math.log(a.error / b.error) / ((b.count - a.count) / 2);
    assert.ok(Math.abs(rate / found[0][1] - 1) < 0.1, `${rate} for ${found[0][1]} at ${t}`);
  }
});
