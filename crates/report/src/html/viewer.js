'use strict';
// Loads a case's voxels and describes the three planes. Voxels run from the patient's right to the left, from front to
// back, from the feet up; index = x + nx * (y + ny * z).
const Voxels = (() => {
  const bytesOf = id => {
    const text = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  };

  async function labels(id, isWide) {
    const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream('deflate'));
    const buffer = await new Response(stream).arrayBuffer();
    return isWide ? new Uint16Array(buffer) : new Uint8Array(buffer);
  }

  // Slices are arranged on one sheet; they are read back row by row to save memory.
  async function grey(id, planes) {
    const sheet = await createImageBitmap(new Blob([bytesOf(id)], { type: 'image/jpeg' }), { colorSpaceConversion: 'none' });
    const [nx, ny, nz] = planes.shape, [width, height] = planes.tile;
    const canvas = document.createElement('canvas');
    canvas.width = sheet.width;
    canvas.height = height;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    const voxels = new Uint8Array(nx * ny * nz);
    for (let row = 0; row * planes.columns < nz; row++) {
      context.drawImage(sheet, 0, -row * height);
      const pixels = context.getImageData(0, 0, canvas.width, height).data;
      for (let column = 0; column < planes.columns; column++) {
        const z = row * planes.columns + column;
        if (z >= nz) break;
        for (let y = 0; y < ny; y++) {
          let from = 4 * (y * canvas.width + column * width), to = nx * (y + ny * z);
          for (let x = 0; x < nx; x++, from += 4) voxels[to++] = pixels[from];
        }
      }
    }
    sheet.close();
    return voxels;
  }

  async function load(index, planes) {
    const [image, reference, prediction] = await Promise.all([
      grey(`view-${index}-image`, planes),
      labels(`view-${index}-reference`, planes.wide),
      labels(`view-${index}-prediction`, planes.wide),
    ]);
    return { planes, image, reference, prediction };
  }

  // Geometry of plane `k` perpendicular to an axis (0 sagittal, 1 coronal, 2 axial): voxels across and down, their size
  // in mm, and index = start + u * across + v * down.
  function plane(planes, axis, k) {
    const [nx, ny, nz] = planes.shape, [mx, my, mz] = planes.mm, layer = nx * ny;
    if (axis === 2) return { w: nx, h: ny, mw: mx, mh: my, start: k * layer, across: 1, down: nx, letters: 'RLAP' };
    const top = (nz - 1) * layer;
    if (axis === 1) return { w: nx, h: nz, mw: mx, mh: mz, start: k * nx + top, across: 1, down: -layer, letters: 'RLSI' };
    return { w: ny, h: nz, mw: my, mh: mz, start: k + top, across: nx, down: -layer, letters: 'APSI' };
  }

  return { load, plane };
})();

// Draws planes onto canvases.
const Painter = (() => {
  const FALSE_POSITIVE = [230, 60, 60], FALSE_NEGATIVE = [70, 140, 255], WRONG_STRUCTURE = [255, 205, 40], EDGE = [140, 255, 170];
  const scratch = document.createElement('canvas');

  // Grey value of each stored number in a window; numbers map to Hounsfield units by linear interpolation of the knots.
  function tones(knots, width, level) {
    const table = new Uint8ClampedArray(256);
    for (let n = 0, knot = 1; n < 256; n++) {
      while (n > knots[knot][1]) knot++;
      const [x0, y0] = knots[knot - 1], [x1, y1] = knots[knot];
      const hu = x0 + (n - y0) / (y1 - y0) * (x1 - x0);
      table[n] = 255 * ((hu - level) / width + 0.5);
    }
    return table;
  }

  function hounsfield(knots, n) {
    let knot = 1;
    while (n > knots[knot][1]) knot++;
    const [x0, y0] = knots[knot - 1], [x1, y1] = knots[knot];
    return x0 + (n - y0) / (y1 - y0) * (x1 - x0);
  }

  // Position of a plane in a frame (in pixels): isotropic, fitted to the frame times the zoom, centred on `focus`
  // (voxels across and down).
  function layout(frame, seen, zoom, focus) {
    const scale = zoom * Math.min(frame.width / (seen.w * seen.mw), frame.height / (seen.h * seen.mh));
    const width = seen.w * seen.mw * scale, height = seen.h * seen.mh * scale;
    // A plane that fits is centred; a larger one covers the whole frame.
    const offset = (room, length, share) => room >= length ? (room - length) / 2
      : Math.min(0, Math.max(room - length, room / 2 - share * length));
    const x = offset(frame.width, width, (focus[0] + 0.5) / seen.w);
    const y = offset(frame.height, height, (focus[1] + 0.5) / seen.h);
    return { x, y, width, height };
  }

  // In-plane coordinates (across, down) of a position, in the plane perpendicular to `axis`.
  function across(position, axis, seen) {
    const v = position[axis === 2 ? 1 : 2];
    return [position[axis === 0 ? 1 : 0], axis === 2 ? v : seen.h - 1 - v];
  }

  function stretched(context, pixels, at, isSmooth) {
    scratch.width = pixels.width;
    scratch.height = pixels.height;
    scratch.getContext('2d').putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = isSmooth;
    context.imageSmoothingQuality = 'high';
    context.drawImage(scratch, at.x, at.y, at.width, at.height);
  }

  // Labels of a plane; hidden structures are background.
  function labelsOf(voxels, seen, visible) {
    const found = new Uint16Array(seen.w * seen.h);
    for (let v = 0, to = 0; v < seen.h; v++) {
      for (let u = 0, from = seen.start + v * seen.down; u < seen.w; u++, from += seen.across) {
        const label = voxels[from];
        found[to++] = visible[label] ? label : 0;
      }
    }
    return found;
  }

  function fill(context, at, seen, colourOf, alpha) {
    const pixels = new ImageData(seen.w, seen.h);
    for (let i = 0; i < seen.w * seen.h; i++) {
      const colour = colourOf(i);
      if (colour) pixels.data.set([colour[0], colour[1], colour[2], 255 * alpha], 4 * i);
    }
    stretched(context, pixels, at, false);
  }

  // Outlines along the faces between voxels of different labels.
  function outlines(context, at, seen, labels, colourOf, thickness) {
    const [sx, sy] = [at.width / seen.w, at.height / seen.h], paths = new Map();
    const path = label => {
      if (!paths.has(label)) paths.set(label, new Path2D());
      return paths.get(label);
    };
    for (let v = 0; v < seen.h; v++) {
      for (let u = 0; u < seen.w; u++) {
        const own = labels[v * seen.w + u];
        const right = u + 1 < seen.w ? labels[v * seen.w + u + 1] : 0;
        const below = v + 1 < seen.h ? labels[(v + 1) * seen.w + u] : 0;
        const [x, y] = [at.x + (u + 1) * sx, at.y + (v + 1) * sy];
        if (own !== right) {
          const line = path(own || right);
          line.moveTo(x, y - sy);
          line.lineTo(x, y);
        }
        if (own !== below) {
          const line = path(own || below);
          line.moveTo(x - sx, y);
          line.lineTo(x, y);
        }
      }
    }
    context.lineWidth = thickness;
    context.lineCap = 'round';
    for (const [label, line] of paths) {
      context.strokeStyle = `rgb(${colourOf(label)})`;
      context.stroke(line);
    }
  }

  function overlay(context, at, seen, settings) {
    const reference = labelsOf(settings.voxels.reference, seen, settings.visible);
    const prediction = labelsOf(settings.voxels.prediction, seen, settings.visible);
    const colour = label => settings.colours[label], line = settings.line;
    const filled = labels => fill(context, at, seen, i => colour(labels[i]), settings.opacity);
    if (settings.mode === 'reference' || settings.mode === 'prediction') {
      const labels = settings.mode === 'reference' ? reference : prediction;
      filled(labels);
      outlines(context, at, seen, labels, colour, line);
    } else if (settings.mode === 'both') {
      filled(prediction);
      outlines(context, at, seen, reference, colour, line);
    } else if (settings.mode === 'differences') {
      fill(context, at, seen, i => {
        if (reference[i] === prediction[i]) return null;
        return reference[i] === 0 ? FALSE_POSITIVE : prediction[i] === 0 ? FALSE_NEGATIVE : WRONG_STRUCTURE;
      }, settings.opacity);
      outlines(context, at, seen, reference, () => EDGE, 0.6 * line);
    }
  }

  // Stage 1's region of interest, if the plane intersects it: faces along the two axes of the plane.
  function region(context, at, seen, axis, k, planes, line) {
    if (!planes.roi || k + 0.5 < planes.roi[axis][0] || k + 0.5 > planes.roi[axis][1]) return;
    const across = planes.roi[axis === 0 ? 1 : 0];
    let down = planes.roi[axis === 2 ? 1 : 2];
    if (axis !== 2) down = [seen.h - down[1], seen.h - down[0]];
    const [sx, sy] = [at.width / seen.w, at.height / seen.h];
    const inside = (value, most) => Math.min(Math.max(value, 0), most);
    const [x0, x1] = across.map(value => at.x + inside(value, seen.w) * sx);
    const [y0, y1] = down.map(value => at.y + inside(value, seen.h) * sy);
    context.save();
    context.strokeStyle = '#ffd34d';
    context.lineWidth = line;
    context.setLineDash([5 * line, 4 * line]);
    context.strokeRect(x0 + line / 2, y0 + line / 2, x1 - x0 - line, y1 - y0 - line);
    context.restore();
  }

  function letters(context, canvas, seen, size) {
    const [left, right, top, bottom] = seen.letters;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.fillStyle = '#e8eef3';
    context.strokeStyle = '#000';
    context.lineWidth = size / 5;
    const put = (text, x, y, align, base) => {
      context.textAlign = align;
      context.textBaseline = base;
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    };
    const [w, h, edge] = [canvas.width, canvas.height, size / 2];
    put(left, edge, h / 2, 'left', 'middle');
    put(right, w - edge, h / 2, 'right', 'middle');
    put(top, w / 2, edge, 'center', 'top');
    put(bottom, w / 2, h - edge, 'center', 'bottom');
  }

  // Draws the plane perpendicular to `axis` at the current position. With `crossAxis`, draws a side view: unzoomed,
  // with a line where the plane perpendicular to `crossAxis` intersects it.
  function draw(canvas, axis, settings, crossAxis) {
    const context = canvas.getContext('2d'), k = settings.position[axis];
    const seen = Voxels.plane(settings.voxels.planes, axis, k);
    const at = layout(canvas, seen, crossAxis === null ? settings.zoom : 1, across(settings.focus, axis, seen));
    const ratio = window.devicePixelRatio || 1;
    context.fillStyle = '#000';
    context.fillRect(0, 0, canvas.width, canvas.height);
    const pixels = new ImageData(seen.w, seen.h), words = new Uint32Array(pixels.data.buffer);
    for (let v = 0, to = 0; v < seen.h; v++) {
      for (let u = 0, from = seen.start + v * seen.down; u < seen.w; u++, from += seen.across) {
        words[to++] = 0xff000000 | settings.tones[settings.voxels.image[from]] * 0x010101;
      }
    }
    stretched(context, pixels, at, true);
    const own = { ...settings, line: (crossAxis === null ? 2 : 1.25) * ratio };
    if (settings.mode !== 'image') overlay(context, at, seen, own);
    if (settings.showsRegion) region(context, at, seen, axis, k, settings.voxels.planes, 1.5 * ratio);
    if (crossAxis !== null) cross(context, at, seen, axis, crossAxis, settings.position[crossAxis], ratio);
    letters(context, canvas, seen, (crossAxis === null ? 15 : 11) * ratio);
  }

  // Line where the main plane intersects a side view.
  function cross(context, at, seen, axis, crossAxis, k, line) {
    const isUpright = crossAxis === 0 || (crossAxis === 1 && axis === 0);
    const share = (k + 0.5) / (isUpright ? seen.w : seen.h);
    context.fillStyle = 'rgba(109, 183, 238, 0.85)';
    if (isUpright) context.fillRect(at.x + share * at.width - line / 2, at.y, line, at.height);
    else {
      const down = crossAxis === 2 ? 1 - share : share;
      context.fillRect(at.x, at.y + down * at.height - line / 2, at.width, line);
    }
  }

  return { tones, hounsfield, layout, across, draw };
})();

