// Latents: how they are drawn, truncated and walked between. Nothing here knows of the page.

/** Draw latent number `index` of a seed: a function of the two alone. */
function drawLatent(seed, index, dimensions, distribution) {
  const uniform = uniformNumbers(mixed(mixed(seed) ^ index));
  return Float32Array.from({ length: dimensions }, () => {
    if (distribution === "uniform") return 2 * uniform() - 1;
    return Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()); // Box and Muller 1958
  });
}

/** Mulberry32, Ettinger 2017: numbers in [0, 1). */
function uniformNumbers(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Mix the bits of a 32-bit number, as MurmurHash3 ends: neighbours become unrelated. */
function mixed(x) {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}

/** Turn standard normal values into those of the normal distribution truncated to [-psi, psi], each at the same quantile. */
function truncatedNormal(z, psi) {
  const lowest = upperTail(psi);
  return Float32Array.from(z, (x) => {
    const tail = lowest + (1 - 2 * lowest) * upperTail(Math.abs(x));
    let [low, high] = [0, psi];
    for (let i = 0; i < 50; i++) {
      const middle = (low + high) / 2;
      if (upperTail(middle) > tail) low = middle;
      else high = middle;
    }
    return Math.sign(x) * low;
  });
}

/** How likely a standard normal value is above x >= 0. */
function upperTail(x) {
  x = Math.min(x, 8); // what is beyond, 6e-16, is lost beside what truncation adds to it
  let [sum, term] = [x, x];
  for (let k = 3; term > 1e-17 * sum; k += 2) {
    term *= (x * x) / k;
    sum += term;
  }
  return 0.5 - (Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)) * sum;
}

/** Spherical interpolation, White 2016: the direction turns evenly and the length changes evenly. */
function slerp(a, b, t) {
  const [lengthA, lengthB] = [Math.hypot(...a), Math.hypot(...b)];
  const cosine = dot(a, b) / (lengthA * lengthB);
  const omega = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(omega);
  if (!(sine > 1e-2)) return lerp(a, b, t); // parallel, opposite or zero: there is no arc between them
  const length = lengthA + t * (lengthB - lengthA);
  const [u, v] = [Math.sin((1 - t) * omega) / sine / lengthA, Math.sin(t * omega) / sine / lengthB];
  return a.map((x, i) => length * (u * x + v * b[i]));
}

function lerp(a, b, t) {
  return a.map((x, i) => x + t * (b[i] - x));
}

function dot(a, b) {
  return a.reduce((sum, x, i) => sum + x * b[i], 0);
}

/** Move z along a direction of length 1 until its coordinate there is `value`. */
function moved(z, direction, value) {
  const step = value - dot(z, direction);
  return z.map((x, i) => x + step * direction[i]);
}
