// A shaded sphere, drawn once for each colour and then copied, which is many times faster than a gradient per atom.
const spheres = new Map();
function sphere(colour) {
  if (spheres.has(colour)) return spheres.get(colour);
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  canvas.width = canvas.height = 128;
  pen.arc(64, 64, 63, 0, 7);
  pen.fillStyle = colour;
  pen.fill();
  const light = pen.createRadialGradient(46, 42, 4, 60, 58, 68);
  for (const [at, shade] of [[0, "#fffc"], [0.35, "#fff1"], [0.75, "#0002"], [1, "#000a"]]) light.addColorStop(at, shade);
  pen.fillStyle = light;
  pen.fill();
  spheres.set(colour, canvas);
  return canvas;
}

// The colour of a share from 0 to 1, in steps so that few spheres are drawn.
const SHADES = [[208, 217, 230], [250, 196, 96], [236, 104, 62], [164, 14, 92]];
function shade(share) {
  const at = Math.round(24 * Math.min(1, Math.max(0, share))) / 24 * (SHADES.length - 1);
  const low = Math.min(SHADES.length - 2, Math.floor(at));
  return `rgb(${SHADES[low].map((one, i) => Math.round(one + (at - low) * (SHADES[low + 1][i] - one)))})`;
}

// Views of one structure in a box of the page, which turn and zoom together; returns what shows data in them, that of
// the same structure too while it moves. Å in; x to the right, y up, z towards the eye.
function viewer(box) {
  const canvases = [...box.querySelectorAll("canvas")], near = box.querySelector(".near input");
  const by = box.querySelector("select"), key = box.querySelector(".key");
  let data = null, edges = [], bonds = [], far = new Set(), moved = new Set(), values = {};
  let turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]], zoom = 1.25, waiting = false;

  function show(next) {
    data = next;
    edges = cellEdges(data.cell);
    [far, moved] = [new Set(data.far), new Set(data.moved)];
    const way = data.start.map((from, atom) => Math.hypot(...from.map((x, i) => data.end[atom][i] - x)));
    const most = Math.max(0.2, ...way);
    values = {displacement: {of: way, most, text: `${most.toFixed(2)} Å`}};
    if (data.doubt) values.doubt = {of: data.doubt, most: 1, text: "1: unlike the training"};
    bonds = canvases.map(canvas => bondsOf(data[canvas.dataset.shows], data));
    tell();
    redraw();
  }

  // What colours mean, as dots of elements or a scale.
  function tell() {
    for (const option of by.options) option.hidden = option.value !== "element" && !(option.value in values);
    if (by.selectedOptions[0].hidden) by.value = "displacement";
    const scale = values[by.value];
    key.replaceChildren(...(scale ? ["0 ", scaleBar(), ` ${scale.text}`] : data.elements.flatMap(dot)));
    box.querySelector(".count").textContent = data.moved.length;
    box.querySelector(".at-start").hidden = !data.defects.length;
    box.querySelector(".near").hidden = !data.far.length;
  }

  const colour = atom => {
    const scale = values[by.value];
    return scale ? shade(scale.of[atom] / scale.most) : data.elements[data.kinds[atom]][0];
  };

  function rotate(across, up) {
    const [c, s, d, t] = [Math.cos(across), Math.sin(across), Math.cos(up), Math.sin(up)];
    const step = [[c, 0, s], [t * s, d, -t * c], [-d * s, t, d * c]];
    turn = step.map(row => [0, 1, 2].map(i => row[0] * turn[0][i] + row[1] * turn[1][i] + row[2] * turn[2][i]));
    redraw();
  }

  function paint(canvas, bonds) {
    const positions = data[canvas.dataset.shows], eye = 5 * data.extent;
    const ratio = window.devicePixelRatio || 1, [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const scale = zoom * Math.min(width, height) / 2 / data.extent;
    const [ground, frame, mark, site] =
      ["--band", "--soft", "--mark", "--data"].map(name => style.getPropertyValue(name));
    pen.setTransform(ratio, 0, 0, ratio, ratio * width / 2, ratio * height / 2);
    const place = ([x, y, z]) => {
      const [a, b, c] = turn.map(row => row[0] * x + row[1] * y + row[2] * z), size = scale * eye / (eye - c);
      return {x: a * size, y: -b * size, z: c, size};
    };
    const fog = z => 0.55 + 0.45 * Math.min(1, Math.max(0, (z / data.extent + 0.8) / 1.2));
    const dim = atom => near?.checked && far.has(atom);
    const items = positions.map((position, atom) => ({...place(position), atom}));
    for (const [from, to] of edges) items.push({...place(middle(from, to)), line: [from, to]});
    for (const [one, two] of bonds)
      if (!dim(one) && !dim(two))
        items.push({...place(middle(positions[one], positions[two])), line: [positions[one], positions[two]], bond: true});
    for (const position of data.defects) items.push({...place(position), defect: true});
    items.sort((a, b) => a.z - b.z);
    for (const {x, y, z, size, atom, line, bond, defect} of items) {
      pen.beginPath();
      if (line) {
        const [from, to] = line.map(place);
        pen.moveTo(from.x, from.y);
        pen.lineTo(to.x, to.y);
        Object.assign(pen, {strokeStyle: frame, lineWidth: bond ? 0.16 * size : 1, globalAlpha: fog(z) * (bond ? 0.7 : 1)});
        pen.stroke();
      } else if (defect) {
        pen.setLineDash([4, 3]);
        pen.arc(x, y, 1.1 * size, 0, 7);
        Object.assign(pen, {strokeStyle: site, lineWidth: 2, globalAlpha: 1});
        pen.stroke();
        pen.setLineDash([]);
      } else {
        const radius = size * data.elements[data.kinds[atom]][1], pale = dim(atom);
        pen.arc(x, y, radius, 0, 7);
        if (!pale) Object.assign(pen, {fillStyle: ground, globalAlpha: 1}), pen.fill();
        pen.globalAlpha = pale ? 0.12 : fog(z);
        pen.drawImage(sphere(colour(atom)), x - radius, y - radius, 2 * radius, 2 * radius);
        if (moved.has(atom) && !pale) Object.assign(pen, {strokeStyle: mark, lineWidth: Math.max(2, radius / 5)}), pen.stroke();
      }
    }
  }

  function redraw() {
    if (waiting || !data) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      canvases.forEach((canvas, i) => canvas.clientWidth && paint(canvas, bonds[i]));
    });
  }

  const enlarge = factor => { zoom = Math.min(20, Math.max(0.3, zoom * factor)); redraw(); };
  const keys = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1]};
  for (const canvas of canvases) {
    const fingers = new Map();
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, event);
    });
    canvas.addEventListener("pointermove", event => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      const apart = finger => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      if (other) enlarge(apart(event) / (apart(last) || 1));
      else rotate((event.clientX - last.clientX) / 120, (event.clientY - last.clientY) / 120);
      fingers.set(event.pointerId, event);
    });
    canvas.addEventListener("lostpointercapture", event => fingers.delete(event.pointerId));
    canvas.addEventListener("wheel", event => {
      if (document.activeElement !== canvas) return;  // whoever scrolls past is not to be caught
      event.preventDefault();
      enlarge(Math.exp(-Math.sign(event.deltaY) * 0.1));
    }, {passive: false});
    canvas.addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || !(event.key in keys || "+-".includes(event.key))) return;
      event.preventDefault();
      if (event.key in keys) rotate(...keys[event.key]);
      else enlarge(event.key === "+" ? 1.1 : 1 / 1.1);
    });
    new ResizeObserver(redraw).observe(canvas);
  }
  near?.addEventListener("change", redraw);
  by.addEventListener("change", () => { tell(); redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  rotate(-0.45, 0);
  rotate(0, 0.3);
  return show;
}

const middle = (from, to) => from.map((x, i) => (x + to[i]) / 2);

// Pairs of atoms nearer than 1.2 of the sum of their covalent radii, of those that are drawn beside each other.
function bondsOf(positions, data) {
  const pairs = [], radii = data.kinds.map(kind => data.elements[kind][2]);
  for (let one = 0; one < positions.length; one++) for (let two = one + 1; two < positions.length; two++) {
    const reach = 1.2 * (radii[one] + radii[two]), [a, b] = [positions[one], positions[two]];
    if (Math.abs(a[0] - b[0]) < reach && Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]) < reach) pairs.push([one, two]);
  }
  return pairs;
}

function dot([colour, , , symbol]) {
  const mark = document.createElement("i");
  mark.style.background = colour;
  return [mark, `${symbol} `];
}

function scaleBar() {
  const bar = document.createElement("i");
  bar.className = "scale";
  bar.style.background = `linear-gradient(to right, ${SHADES.map(one => `rgb(${one})`)})`;
  return bar;
}

// The edges of the box in short pieces, each of which can be before or behind an atom.
function cellEdges(cell) {
  const edges = [], pieces = 12;
  if (!cell.length) return edges;
  const corner = (a, b, c) => [0, 1, 2].map(i => a * cell[0][i] + b * cell[1][i] + c * cell[2][i]);
  for (let along = 0; along < 3; along++) for (const one of [-0.5, 0.5]) for (const two of [-0.5, 0.5])
    for (let piece = 0; piece < pieces; piece++) edges.push([piece, piece + 1].map(end => {
      const at = [one, two];
      at.splice(along, 0, end / pieces - 0.5);
      return corner(...at);
    }));
  return edges;
}
