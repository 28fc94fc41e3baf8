"use strict";

/* Two models on the same images, from four counts: both, only A, only B, neither. */
const statistics = (() => {
  const Z = 1.959963984540054;
  const places = (value) => Math.round(value * 1e6) / 1e6;

  /* 95 % interval of k successes in n trials. */
  function wilson(k, n) {
    const [p, z2] = [k / n, Z * Z];
    const centre = (p + z2 / (2 * n)) / (1 + z2 / n);
    const half = (Z / (1 + z2 / n)) * Math.sqrt((p * (1 - p)) / n + z2 / (4 * n * n));
    return [places(Math.max(0, centre - half)), places(Math.min(1, centre + half))];
  }

  /* 95 % interval for the difference of paired shares: Newcombe 1998, method 10. */
  function newcombe(both, onlyA, onlyB, neither) {
    const n = both + onlyA + onlyB + neither;
    const [a, b] = [both + onlyA, both + onlyB];
    const [lowA, highA] = wilson(a, n);
    const [lowB, highB] = wilson(b, n);
    const [downA, upA, downB, upB] = [a / n - lowA, highA - a / n, b / n - lowB, highB - b / n];
    let agreement = both * neither - onlyA * onlyB;
    if (agreement > 0) agreement = Math.max(0, agreement - n / 2);
    const margins = a * (n - a) * b * (n - b);
    const phi = margins ? agreement / Math.sqrt(margins) : 0;
    const side = (x, y) => Math.sqrt(Math.max(0, x * x - 2 * phi * x * y + y * y));
    return [(a - b) / n - side(downA, upB), (a - b) / n + side(upA, downB)];
  }

  /* Exact two-sided p-value: twice the chance of at most min(onlyA, onlyB) heads in as many fair tosses as there are
     discordant images. The term of that many heads is a product; halvings are spread over it, so that it stays in range. */
  function mcnemar(onlyA, onlyB) {
    const [d, k] = [onlyA + onlyB, Math.min(onlyA, onlyB)];
    let [term, halvings] = [1, d];
    for (let i = 1; i <= k; i++) {
      term *= (d - k + i) / i;
      while (term > 1 && halvings > 0) {
        term /= 2;
        halvings--;
      }
    }
    term *= 2 ** -halvings;
    let sum = 0;
    for (let i = k; i >= 0 && term > 0; i--) {
      sum += term;
      if (term < sum * 1e-17) break;
      term *= i / (d - i + 1);
    }
    return Math.min(1, 2 * sum);
  }

  return { mcnemar, newcombe, wilson };
})();
