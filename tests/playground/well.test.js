// The page's window is the package's: on fixtures that test_playground.py writes with Python.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { leadingBias, linearised, Table } from "../../book/assets/playground/well.js";

const { windows, transitions } = JSON.parse(readFileSync(process.env.PLAYGROUND_FIXTURES, "utf-8"));
const table = new Table(transitions);
const near = (a, b, bound, told) => assert.ok(Math.abs(a - b) <= bound, `${told}: ${a} for ${b}`);

test("there are 54 windows", () => assert.equal(windows.length, 54));

for (const { start, window, ...given } of windows) {
  const name = `start ${start.toFixed(2)}, window ${window}`;
  test(`${name}: the Gaussian is Python's`, () => {
    const { mean, variance } = linearised(start, window);
    near(mean, given.linearised.mean, 1e-12, "mean");
    near(variance, given.linearised.variance, 1e-12, "variance");
  });

  // The table's scheme is of second order, which costs most at the least window and steepest start.
  test(`${name}: the true law is that of another solver`, () => {
    const law = table.law(start, window), scale = Math.sqrt(given.variance);
    near(law.bias, given.linearised.mean - given.mean, 0.02 * Math.abs(given.linearised.mean - given.mean), "bias");
    near(law.mean, given.mean, 0.01 * scale, "mean");
    near(law.variance / given.variance, 1, 2e-3, "variance");
    near(law.variation, given.variation, 1e-3, "variation");
    const highest = Math.max(...given.density);
    given.places.forEach((x, i) => near(law.density(x), given.density[i], 0.01 * highest, `density at ${x}`));
  });
}

test("half a short window has a quarter of the bias, and twice the variance of the label", () => {
  for (const y of [-1.9, -0.5, 0.2, 0.6, 1, 2]) {
    const [half, whole] = [0.02, 0.04].map((h) => Math.abs(table.moments(y, h).bias));
    near(whole / half, 4, 0.4, `bias from ${y}`); // the next order is a factor h smaller
    near(half / leadingBias(y, 0.02), 1, 0.2, `leading bias from ${y}`);
    const growth = Math.exp(0.04 * (1 - 3 * y ** 2)); // P' = 2JP + 1, so that P_2h = (1 + e^2Jh) P_h
    near(linearised(y, 0.04).variance / linearised(y, 0.02).variance, 1 + growth, 1e-12, `label from ${y}`);
  }
});

test("the mirrored start has the mirrored law, and the top of the hill no bias", () => {
  const [left, right] = [table.law(-0.7, 0.5), table.law(0.7, 0.5)];
  assert.equal(left.bias, -right.bias);
  for (const x of [-2, -0.3, 0, 1.1]) assert.equal(left.density(x), right.density(-x));
  assert.equal(table.law(0, 1).mean, 0);
});

test("densities have mass one in all of the table's range", () => {
  for (let y = -2; y <= 2; y += 0.13)
    for (const h of [0.02, 0.05, 0.2, 0.9, 1.28]) {
      const { density } = table.law(y, h), step = 0.02;
      let mass = 0;
      for (let x = -6; x < 6; x += step) mass += step * density(x);
      near(mass, 1, 2e-3, `${y}, ${h}`);
    }
});

test("starts and windows beyond the table, and tables that lack rows, are refused", () => {
  for (const [y, h] of [[2.01, 0.1], [-3, 0.1], [NaN, 0.1], [0, 0.01], [0, 2], [0, NaN]])
    assert.throws(() => table.law(y, h), /expected \|start\| up to 2, window 0.02 to 1.28/);
  assert.throws(() => new Table({ ...transitions, bias: transitions.bias.slice(1) }), /expected 169 laws/);
});
