// The page: what is shown, and what happens when it is touched.

const at = (id) => document.getElementById(id);
const facts = JSON.parse(at("about").textContent);
const [channels, height, width] = facts.image_shape;
const classes = facts.class_names;
const normal = facts.latent_distribution === "normal";
const truncatable = facts.styles || normal;
const REACH = normal ? 3 : 1.5; // of the sliders: uniform latents have a standard deviation of 0.58 in any direction
const LEG = 2000; // milliseconds of a walk from one latent to the next
const BATCH = Math.max(1, Math.min(64, Math.floor(2 ** 16 / (width * height)))); // images between two looks at the page's events

let ort, session;
let turn = Promise.resolve(); // the runtime does one thing at a time
let samples = []; // of the grid: { z, y, button, canvas }
let current = { z: null, y: 0, chosen: 0 }; // the large image, and the sample that it started from
let walking = false;
let leg = null; // of the walk: { from, to, start }
let next = 0; // number of the latent that the next leg leads to

/** Generate images.
 *  @param latents arrays of facts.latent_dim numbers
 *  @param labels class numbers, as many; ignored if there are no classes
 *  @param truncation a number, or null for none
 *  @returns Float32Array, (N, C, H, W) in about [-1, 1] */
function images(latents, labels, truncation = null) {
  const rows = latents.map((z) => {
    if (!normal) return z.map((x) => Math.min(1, Math.max(-1, x))); // it has learnt of no others
    return facts.styles || truncation === null ? z : truncatedNormal(z, truncation);
  });
  const z = new Float32Array(rows.length * facts.latent_dim);
  rows.forEach((row, i) => z.set(row, i * facts.latent_dim));
  const inputs = { z: new ort.Tensor("float32", z, [rows.length, facts.latent_dim]) };
  if (classes.length) inputs.y = new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [rows.length]);
  if (facts.styles) inputs.truncation = new ort.Tensor("float32", Float32Array.of(truncation ?? 1), []);
  const outputs = turn.then(() => session.run(inputs));
  turn = outputs.catch(() => {});
  return outputs.then((found) => found.images.data);
}

/** Paint one image, (C, H, W) in about [-1, 1]. Of channels that are neither grey nor RGB, only the first one or three. */
function paint(canvas, pixels) {
  const picture = new ImageData(width, height);
  const plane = width * height;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) {
      picture.data[4 * i + c] = (pixels[(channels > 2 ? c * plane : 0) + i] + 1) * 127.5; // it rounds and clamps
    }
    picture.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

const truncation = () => {
  const { value, max } = at("psi");
  return truncatable && Number(value) < Number(max) ? Number(value) : null;
};

/** Show the current image. */
const show = oneAtATime(async () => {
  at("sliders").querySelectorAll("input").forEach((slider, i) => {
    slider.value = dot(current.z, facts.directions[i]);
    slider.nextElementSibling.value = Number(slider.value).toFixed(2);
  });
  paint(at("image"), await images([current.z], [current.y], truncation()));
  at("image").setAttribute("aria-label", `Generated image${classes.length ? `, class ${classes[current.y]}` : ""}`);
  await nextFrame();
});

/** Run a task once at a time; calls that come while it runs make it run once more. */
function oneAtATime(task) {
  let asked = false;
  let running = null;
  return () => {
    asked = true;
    running ??= (async () => {
      try {
        while (asked) {
          asked = false;
          await task();
        }
      } finally {
        running = null;
      }
    })();
    return running;
  };
}

const nextFrame = () => new Promise((resolve) => setTimeout(resolve)); // a hidden page has no frames

/** Lay out the samples of the seed, and choose the first, or the one chosen before. */
function layOut(chosen = 0) {
  const [seed, count, label] = [Number(at("seed").value), Number(at("count").value), at("label").value];
  samples = Array.from({ length: count }, (_, i) => {
    const z = drawLatent(seed, i, facts.latent_dim, facts.latent_distribution);
    const y = label === "" ? i % classes.length || 0 : Number(label);
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Sample ${i + 1}${classes.length ? `, class ${classes[y]}` : ""}`);
    button.title = classes.length ? classes[y] : "";
    button.addEventListener("click", () => choose(i));
    const canvas = newCanvas();
    button.append(canvas);
    return { z, y, button, canvas };
  });
  at("grid").replaceChildren(...samples.map((sample) => sample.button));
  choose(chosen < count ? chosen : 0);
  return paintGrid();
}

function newCanvas(canvas = document.createElement("canvas")) {
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

const paintGrid = oneAtATime(async () => {
  const painted = samples;
  for (let i = 0; i < painted.length; i += BATCH) {
    const part = painted.slice(i, i + BATCH);
    const pixels = await images(part.map((sample) => sample.z), part.map((sample) => sample.y), truncation());
    if (painted !== samples) return; // others have been asked for
    part.forEach((sample, k) => paint(sample.canvas, pixels.subarray(k * channels * height * width)));
    await nextFrame();
  }
});

function choose(i) {
  const { z, y } = samples[i];
  current = { z, y, chosen: i };
  samples.forEach((sample, k) => sample.button.setAttribute("aria-pressed", k === i));
  if (classes.length) at("classes").querySelectorAll("input")[y].checked = true;
  [leg, next] = [null, i + 1];
  return show();
}

function setWalking(on) {
  walking = on;
  leg = null;
  at("walk").textContent = on ? "Pause" : "Walk";
  walk();
}

const walk = oneAtATime(async () => {
  while (walking) {
    const now = await new Promise(requestAnimationFrame);
    const [seed, path] = [Number(at("seed").value), normal ? slerp : lerp];
    leg ??= { from: current.z, to: drawLatent(seed, next++, facts.latent_dim, facts.latent_distribution), start: now };
    const t = Math.min(1, (now - leg.start) / LEG);
    current.z = path(leg.from, leg.to, t);
    if (t === 1) leg = null;
    await show();
  }
});

function save() {
  at("image").toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `seed-${at("seed").value}-sample-${current.chosen + 1}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
}

function addSliders() {
  facts.directions.forEach((direction, i) => {
    const row = document.createElement("div");
    row.className = "slider";
    row.innerHTML = `<label for="direction-${i}">${i + 1}</label>
      <input type="range" id="direction-${i}" min="${-REACH}" max="${REACH}" step="any" aria-label="Direction ${i + 1}">
      <output for="direction-${i}"></output>`;
    row.querySelector("input").addEventListener("input", (event) => {
      setWalking(false);
      current.z = moved(current.z, direction, Number(event.target.value));
      show();
    });
    at("sliders").append(row);
  });
}

function addClasses() {
  at("classes").hidden = at("shown").hidden = classes.length === 0;
  classes.forEach((name, i) => {
    at("label").append(new Option(name, i));
    const chip = document.createElement("label");
    const radio = document.createElement("input");
    [radio.type, radio.name, radio.value] = ["radio", "class", i];
    radio.addEventListener("change", () => {
      current.y = i;
      show();
    });
    chip.append(radio, document.createTextNode(name));
    at("classes").append(chip);
  });
}

function addTruncation() {
  const psi = at("psi");
  const [min, max] = facts.styles ? [0, 1] : [0.05, 3];
  Object.assign(psi, { min, max, step: 0.05, value: max });
  const say = () => (psi.nextElementSibling.value = truncation()?.toFixed(2) ?? "off");
  psi.addEventListener("input", () => {
    say();
    show();
  });
  psi.addEventListener("change", paintGrid);
  say();
  at("truncation").hidden = !truncatable;
  at("truncation-of-styles").hidden = !facts.styles;
  at("truncation-of-latents").hidden = facts.styles || !normal;
  at("uniform").hidden = normal;
}

function addFacts() {
  const named = {
    Images: `${width} × ${height} pixels, ${channels === 1 ? "grey" : channels === 3 ? "colour" : `${channels} channels`}`,
    Latents: `${facts.latent_dim} numbers, ${normal ? "standard normal" : "uniform in [−1, 1]"}`,
    Training: `${facts.images_seen.toLocaleString("en")} images seen`,
    Data: facts.data,
    Licence: facts.licence,
    "Made with": `lightning_gan ${facts.lightning_gan}`,
  };
  for (const [name, value] of Object.entries(named)) {
    const [term, description] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, description.textContent] = [name, value];
    at("facts").append(term, description);
  }
  at("version").textContent = facts.onnxruntime_web;
}

/** Read what is embedded in the page as compressed Base64. */
async function unpacked(id) {
  const text = atob(at(id).textContent);
  at(id).remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  const script = URL.createObjectURL(new Blob([await unpacked("runtime")], { type: "text/javascript" }));
  ort = await import(script);
  ort.env.wasm.wasmBinary = await unpacked("wasm");
  session = await ort.InferenceSession.create(await unpacked("model"), { executionProviders: ["wasm"] });

  newCanvas(at("image"));
  document.documentElement.classList.toggle("pixelated", Math.max(width, height) < 128);
  addSliders();
  addClasses();
  addTruncation();
  const samplesForm = at("samples").querySelector("form");
  samplesForm.addEventListener("change", (event) => {
    if (samplesForm.reportValidity()) layOut(event.target === at("count") ? current.chosen : 0);
  });
  at("next").addEventListener("click", () => {
    at("seed").stepUp();
    if (samplesForm.reportValidity()) layOut();
  });
  at("walk").addEventListener("click", () => setWalking(!walking));
  at("back").addEventListener("click", () => {
    setWalking(false);
    choose(current.chosen);
  });
  at("save").addEventListener("click", save);
  at("status").hidden = true;
  document.querySelector("main").hidden = false;
  await layOut();
  window.generator = { images, drawLatent, truncatedNormal, slerp, current: () => ({ ...current, truncation: truncation() }) };
}

addEventListener("unhandledrejection", ({ reason }) => {
  at("status").hidden = false;
  at("status").textContent = `The generator cannot run here: ${reason.message ?? reason}`;
});
addFacts();
start();
