// Density and samples of a flow in two dimensions, drawn by TensorFlow.js.
//
// It reads two signatures of a SavedModel that keras_nf.export_saved_model wrote, converted to
// model/log_prob and model/forward:
//
//   for name in log_prob forward; do
//     tensorflowjs_converter --input_format=tf_saved_model --signature_name=$name \
//       saved_model model/$name
//   done

const LIMIT = 3.5; // the canvas shows -LIMIT ... LIMIT along both axes
const CELLS = 160; // density is computed at CELLS x CELLS points
const SAMPLES = 500;

async function call(model, input) {
  // Maps that invert layer by layer hold loops, which execute() does not take.
  const output = await model.executeAsync(input);
  const values = await output.data();
  tf.dispose([input, output]);
  return values;
}

// Points in the order of an image's pixels: rows from the top, where the second coordinate is high.
function gridOfPoints() {
  const at = (i) => ((i + 0.5) / CELLS) * 2 * LIMIT - LIMIT;
  const points = [];
  for (let row = 0; row < CELLS; row++) {
    for (let column = 0; column < CELLS; column++) points.push([at(column), -at(row)]);
  }
  return tf.tensor2d(points);
}

function drawDensity(context, logProb) {
  const largest = logProb.reduce((a, b) => Math.max(a, b), -Infinity);
  const image = new ImageData(CELLS, CELLS);
  logProb.forEach((value, i) => {
    const shade = 1 - Math.exp(value - largest);
    image.data.set([255 * shade, 255 * (0.4 + 0.6 * shade), 255, 255], 4 * i);
  });
  const small = new OffscreenCanvas(CELLS, CELLS);
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}

function drawSamples(context, x) {
  const { width, height } = context.canvas;
  context.fillStyle = "#c0392b";
  for (let i = 0; i < x.length; i += 2) {
    const left = ((x[i] + LIMIT) / (2 * LIMIT)) * width;
    const top = ((LIMIT - x[i + 1]) / (2 * LIMIT)) * height;
    context.fillRect(left - 1, top - 1, 2, 2);
  }
}

async function main() {
  // The backend "wasm" is no choice: it refuses products whose bias is a matrix.
  if (!(await tf.setBackend("webgl"))) await tf.setBackend("cpu");
  const [density, transform] = await Promise.all(
    ["log_prob", "forward"].map((name) => tf.loadGraphModel(`model/${name}/model.json`)),
  );
  const context = document.getElementById("canvas").getContext("2d");
  drawDensity(context, await call(density, gridOfPoints()));
  // The signature `sample` draws by operations that TensorFlow.js lacks: the noise is drawn here.
  drawSamples(context, await call(transform, tf.randomNormal([SAMPLES, 2])));
  return `${SAMPLES} samples over the density (${tf.getBackend()})`;
}

main()
  .catch((error) => `${error}`)
  .then((text) => (document.getElementById("status").textContent = text));
