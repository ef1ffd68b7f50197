(() => {
  const data = JSON.parse(document.getElementById('report-data').textContent);
  const one = selector => document.querySelector(selector);
  const all = selector => [...document.querySelectorAll(selector)];
  const pressed = (buttons, chosen) => buttons.forEach(button => button.setAttribute('aria-pressed', button === chosen));

  function theme() {
    const root = document.documentElement, stored = 'ctseg-report-theme';
    const dark = matchMedia('(prefers-color-scheme: dark)');
    // Browsers may deny storage to local files.
    try { root.dataset.theme = localStorage.getItem(stored) || ''; } catch { /* use the system theme */ }
    if (!root.dataset.theme) delete root.dataset.theme;
    one('#theme').addEventListener('click', () => {
      const isDark = root.dataset.theme ? root.dataset.theme === 'dark' : dark.matches;
      root.dataset.theme = isDark ? 'light' : 'dark';
      try { localStorage.setItem(stored, root.dataset.theme); } catch { /* not stored */ }
    });
  }

  function boxes() {
    const choice = one('#box-metric');
    if (!choice) return;
    const show = () => all('.boxes').forEach(box => { box.hidden = box.dataset.metric !== choice.value; });
    choice.addEventListener('change', show);
    show();
  }

  // ---- case table ----

  const value = (c, s, m) => data.table.values[(c * data.table.structures.length + s) * data.table.metrics.length + m];

  function meanOver(c, m) {
    let [sum, count] = [0, 0];
    data.table.structures.forEach((_, s) => {
      const v = value(c, s, m);
      if (v !== null) { sum += v; count++; }
    });
    return count ? sum / count : null;
  }

  function quantile(sorted, share) {
    const at = share * (sorted.length - 1), low = Math.floor(at), high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
  }

  // Classifies the values of a column: the worst one, and outliers (beyond 1.5 × IQR) on the worse side.
  function classifier(values, better) {
    const known = values.filter(v => v !== null).map(v => better < 0 ? Math.abs(v) : v).sort((a, b) => a - b);
    if (!better || known.length < 2 || known[0] === known[known.length - 1]) return () => '';
    const [q1, q3] = [quantile(known, 0.25), quantile(known, 0.75)], reach = 1.5 * (q3 - q1);
    const worst = better > 0 ? known[0] : known[known.length - 1];
    return v => {
      if (v === null) return '';
      const own = better < 0 ? Math.abs(v) : v;
      if (own === worst) return 'worst';
      return (better > 0 ? own < q1 - reach : own > q3 + reach) ? 'bad' : '';
    };
  }

  function caseTable() {
    const body = one('#case-table tbody');
    if (!body) return;
    const rows = [...body.rows], structure = one('#structure'), find = one('#find');
    let cells = [], column = -1, isUp = true;
    const read = () => {
      const s = Number(structure.value);
      const columns = data.table.metrics.map((_, m) => rows.map((_, c) => s < 0 ? meanOver(c, m) : value(c, s, m)));
      cells = columns;
      columns.forEach((values, m) => {
        const { digits, better } = data.table.metrics[m], classify = classifier(values, better);
        rows.forEach((row, c) => {
          const cell = row.cells[m + 1];
          cell.textContent = values[c] === null ? '–' : values[c].toFixed(digits);
          cell.className = classify(values[c]);
        });
      });
    };
    const sort = () => {
      const names = data.table.cases, values = cells[column];
      const order = rows.map((_, c) => c).sort((a, b) => {
        const byName = names[a].localeCompare(names[b], undefined, { numeric: true });
        if (column < 0) return isUp ? byName : -byName;
        // Undefined values come last in both directions.
        if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null) || byName;
        return (isUp ? values[a] - values[b] : values[b] - values[a]) || byName;
      });
      order.forEach(c => body.append(rows[c]));
      all('#case-table thead button').forEach(button => {
        const isOwn = Number(button.dataset.column) === column;
        button.parentElement.setAttribute('aria-sort', isOwn ? (isUp ? 'ascending' : 'descending') : 'none');
      });
    };
    all('#case-table thead button').forEach(button => button.addEventListener('click', () => {
      const chosen = Number(button.dataset.column);
      isUp = chosen === column ? !isUp : true;
      column = chosen;
      sort();
    }));
    structure.addEventListener('change', () => { read(); sort(); });
    find.addEventListener('input', () => {
      const wanted = find.value.toLowerCase();
      rows.forEach((row, c) => { row.hidden = !data.table.cases[c].toLowerCase().includes(wanted); });
    });
    read();
  }

  // ---- viewer ----

  function viewer() {
    const root = one('#viewer'), [slice, profile, scroll] = ['#slice', '#profile', '#scroll'].map(one);
    const sides = [one('#side-a'), one('#side-b')], size = data.table.structures.length + 1;
    const settings = {
      voxels: null, position: [0, 0, 0], focus: [0, 0, 0], zoom: 1, mode: 'both', opacity: 0.4, tones: null, showsRegion: true,
      visible: new Array(size).fill(true), colours: [null, ...data.table.structures.map(s => s.colour)],
    };
    let axis = 2, counts = [], chosen = -1, waiting = 0;
    const presets = all('[data-window]'), modes = all('[data-mode]'), planes = all('[data-plane]');
    const names = ['sagittal', 'coronal', 'axial'], ends = [['right', 'left'], ['front', 'back'], ['feet', 'head']];
    const others = () => [2, 1, 0].filter(other => other !== axis);
    const clamp = (k, a) => Math.min(Math.max(k, 0), settings.voxels.planes.shape[a] - 1);

    // Repaints once per frame, however many changes there are.
    const draw = () => { waiting = waiting || requestAnimationFrame(() => { waiting = 0; paint(); }); };

    function fit(canvas) {
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map(side => Math.max(1, Math.round(side * ratio)));
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    }

    function paint() {
      if (!settings.voxels) return;
      [slice, profile, ...sides].forEach(fit);
      Painter.draw(slice, axis, settings, null);
      others().forEach((other, i) => {
        Painter.draw(sides[i], other, settings, axis);
        sides[i].setAttribute('aria-label', `${names[other]} plane; click to move there`);
      });
      bars();
      const n = settings.voxels.planes.shape[axis], k = settings.position[axis], [low, high] = ends[axis];
      scroll.max = n;
      scroll.value = k + 1;
      slice.setAttribute('aria-valuemax', n);
      slice.setAttribute('aria-valuenow', k + 1);
      slice.setAttribute('aria-valuetext', `${names[axis]} slice ${k + 1} of ${n}, counted from the ${low} to the ${high}`);
      one('#place').textContent = `${names[axis]} ${k + 1} / ${n}`;
      root.dataset.drawn = Number(root.dataset.drawn || 0) + 1;
    }

    // Counts differing voxels of the visible structures in each plane.
    function count() {
      const { planes: { shape: [nx, ny, nz] }, reference, prediction } = settings.voxels, v = settings.visible;
      counts = [nx, ny, nz].map(n => new Uint32Array(n));
      for (let z = 0, i = 0; z < nz; z++) for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++, i++) {
        const [a, b] = [reference[i], prediction[i]];
        if (a !== b && (v[a] || v[b])) { counts[0][x]++; counts[1][y]++; counts[2][z]++; }
      }
    }

    function bars() {
      const context = profile.getContext('2d'), own = counts[axis], most = Math.max(1, ...own);
      const [w, h] = [profile.width / own.length, profile.height];
      context.fillStyle = '#171e25';
      context.fillRect(0, 0, profile.width, h);
      context.fillStyle = '#e07a5f';
      own.forEach((n, k) => { if (n) context.fillRect(k * w, h - h * n / most, Math.max(w, 1), h * n / most); });
      context.fillStyle = '#6db7ee';
      context.fillRect(settings.position[axis] * w, 0, Math.max(w, 2), h);
    }

    const go = k => {
      const before = settings.position[axis];
      settings.position[axis] = clamp(k, axis);
      if (settings.position[axis] !== before) draw();
      return settings.position[axis] !== before;
    };
    const step = by => go(settings.position[axis] + by);
    const most = list => list.reduce((best, n, k) => n > list[best] ? k : best, 0);
    const plane = chosenAxis => {
      axis = chosenAxis;
      pressed(planes, planes.find(button => Number(button.dataset.plane) === axis));
      draw();
    };
    const mode = name => {
      settings.mode = name;
      pressed(modes, modes.find(button => button.dataset.mode === name));
      one('#kinds').hidden = name !== 'differences';
      draw();
    };
    const toWorst = () => { settings.position = settings.position.map((k, a) => counts[a].some(n => n) ? most(counts[a]) : k); draw(); };

    function window_(width, level) {
      one('#width').value = width;
      one('#level').value = level;
      pressed(presets, presets.find(button => button.dataset.window === `${width},${level}`));
      settings.tones = Painter.tones(data.knots, width, level);
      draw();
    }

    function zoom(factor) {
      settings.zoom = Math.min(Math.max(factor, 1), 8);
      one('#zoom').value = settings.zoom;
      one('#zoom-value').textContent = `${settings.zoom.toFixed(1)} ×`;
      draw();
    }

    // Zooms so that the structures, with a margin, fill the axial plane.
    function zoomToStructures() {
      const { planes: { shape: [nx, ny, nz], mm }, reference, prediction } = settings.voxels;
      const [low, high] = [[nx, ny, nz], [-1, -1, -1]];
      for (let z = 0, i = 0; z < nz; z++) for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++, i++) {
        if (reference[i] || prediction[i]) [x, y, z].forEach((at, a) => {
          low[a] = Math.min(low[a], at);
          high[a] = Math.max(high[a], at);
        });
      }
      if (high[0] < 0) [low[0], low[1], low[2], high[0], high[1], high[2]] = [0, 0, 0, nx, ny, nz];
      settings.focus = low.map((at, a) => (at + high[a]) / 2);
      const sides = [0, 1].map(a => (high[a] + 1 - low[a]) * mm[a]);
      zoom(Math.min(3, Math.max(nx * mm[0], ny * mm[1]) / (1.5 * Math.max(...sides))));
    }

    // Moves to the plane with most voxels of a structure, along every axis.
    function goTo(slot) {
      const { planes: { shape: [nx, ny, nz] }, reference, prediction } = settings.voxels;
      const found = [nx, ny, nz].map(n => new Uint32Array(n));
      for (let z = 0, i = 0; z < nz; z++) for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++, i++) {
        if (reference[i] === slot || prediction[i] === slot) { found[0][x]++; found[1][y]++; found[2][z]++; }
      }
      if (found[2].some(n => n)) { settings.position = found.map(most); settings.focus = [...settings.position]; draw(); }
    }

    function dices(name) {
      const c = data.table.cases.indexOf(name), m = data.table.metrics.findIndex(metric => metric.key === 'dice');
      all('[data-go]').forEach(button => {
        const v = c < 0 || m < 0 ? null : value(c, Number(button.dataset.go) - 1, m);
        button.textContent = v === null ? '–' : v.toFixed(3);
      });
    }

    async function open(index) {
      chosen = index;
      pressed(all('.case-choice'), one(`.case-choice[data-view="${index}"]`));
      all('.case-text').forEach(text => { text.hidden = Number(text.dataset.view) !== index; });
      const view = data.views[index];
      root.hidden = !view.planes;
      if (!view.planes) return;
      root.setAttribute('aria-busy', 'true');
      let voxels;
      try {
        voxels = await Voxels.load(index, view.planes);
      } catch (error) {
        one('#probe').textContent = `This browser cannot decode the images: ${error.message}`;
        return;
      } finally {
        root.removeAttribute('aria-busy');
      }
      if (chosen !== index) return; // another case was chosen meanwhile
      settings.voxels = voxels;
      settings.position = view.planes.shape.map(n => n >> 1);
      one('#probe').textContent = '';
      dices(view.name);
      count();
      zoomToStructures();
      toWorst();
    }

    // The voxel under the pointer, as x, y, z.
    function below(event, canvas, itsAxis) {
      const box = canvas.getBoundingClientRect(), planes_ = settings.voxels.planes;
      const seen = Voxels.plane(planes_, itsAxis, 0);
      const at_ = Painter.layout(box, seen, canvas === slice ? settings.zoom : 1, Painter.across(settings.focus, itsAxis, seen));
      const u = Math.floor((event.clientX - box.left - at_.x) / at_.width * seen.w);
      let v = Math.floor((event.clientY - box.top - at_.y) / at_.height * seen.h);
      if (u < 0 || v < 0 || u >= seen.w || v >= seen.h) return null;
      if (itsAxis !== 2) v = seen.h - 1 - v;
      const at = [...settings.position];
      at[itsAxis === 0 ? 1 : 0] = u;
      at[itsAxis === 2 ? 1 : 2] = v;
      return at;
    }

    function probe(event) {
      const at = settings.voxels && below(event, slice, axis);
      if (!at) { one('#probe').textContent = ''; return; }
      const { planes: { shape }, image, reference, prediction } = settings.voxels;
      const i = at[0] + shape[0] * (at[1] + shape[1] * at[2]);
      const name = slot => slot ? data.table.structures[slot - 1].name : 'none';
      const hu = Math.round(Painter.hounsfield(data.knots, image[i]));
      one('#probe').textContent = `≈ ${hu} HU · reference ${name(reference[i])} · prediction ${name(prediction[i])}`;
    }

    function keys(event) {
      if (event.ctrlKey || event.altKey || event.metaKey || !settings.voxels) return;
      if (event.target.matches('input, select')) return;
      const next = (list, by) => list[(list.findIndex(b => b.getAttribute('aria-pressed') === 'true') + by) % list.length];
      const actions = {
        ArrowUp: () => step(1), ArrowRight: () => step(1), ArrowDown: () => step(-1), ArrowLeft: () => step(-1),
        PageUp: () => step(10), PageDown: () => step(-10), Home: () => go(0), End: () => go(Infinity),
        1: () => plane(2), 2: () => plane(1), 3: () => plane(0),
        w: () => next(presets, 1).click(), v: () => next(modes, 1).click(), m: toWorst,
        '+': () => zoom(settings.zoom * 1.25), '-': () => zoom(settings.zoom / 1.25),
      };
      const action = actions[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    }

    // The wheel changes the slice; beyond the last slice it scrolls the page.
    let turned = 0;
    slice.addEventListener('wheel', event => {
      if (event.ctrlKey || !settings.voxels) return;
      turned += event.deltaMode ? 40 * event.deltaY : event.deltaY;
      const steps = Math.trunc(turned / 40);
      turned -= 40 * steps;
      if (!steps || step(-steps)) event.preventDefault();
    }, { passive: false });

    // A horizontal swipe changes the slice; a mouse click sets the cross-hairs, dragging pans.
    let held = null;
    slice.addEventListener('pointerdown', event => {
      slice.focus({ preventScroll: true });
      if (!settings.voxels || event.button !== 0) return;
      held = { x: event.clientX, y: event.clientY, k: settings.position[axis], focus: [...settings.focus], moved: false };
    });
    slice.addEventListener('pointermove', event => {
      if (!held) { probe(event); return; }
      const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
      if (event.pointerType !== 'mouse') { go(held.k + Math.round(dx / 6)); return; }
      held.moved = held.moved || Math.hypot(dx, dy) > 4;
      if (!held.moved) return;
      const seen = Voxels.plane(settings.voxels.planes, axis, 0), box = slice.getBoundingClientRect();
      const at = Painter.layout(box, seen, settings.zoom, [0, 0]), down = axis === 2 ? 1 : 2;
      settings.focus[axis === 0 ? 1 : 0] = held.focus[axis === 0 ? 1 : 0] - dx / at.width * seen.w;
      settings.focus[down] = held.focus[down] + (axis === 2 ? -1 : 1) * dy / at.height * seen.h;
      draw();
    });
    slice.addEventListener('pointerup', event => {
      const at = held && !held.moved && event.pointerType === 'mouse' && below(event, slice, axis);
      held = null;
      if (at) { settings.position = at; draw(); }
    });
    slice.addEventListener('pointercancel', () => { held = null; });
    slice.addEventListener('pointerleave', () => { held = null; one('#probe').textContent = ''; });
    sides.forEach((canvas, i) => canvas.addEventListener('pointerdown', event => {
      const at = settings.voxels && below(event, canvas, others()[i]);
      if (at) { settings.position = at; draw(); }
    }));
    profile.addEventListener('pointerdown', event => {
      if (settings.voxels) go(Math.floor(event.offsetX / profile.clientWidth * counts[axis].length));
    });
    root.addEventListener('keydown', keys);
    scroll.addEventListener('input', () => go(Number(scroll.value) - 1));
    planes.forEach(button => button.addEventListener('click', () => plane(Number(button.dataset.plane))));
    modes.forEach(button => button.addEventListener('click', () => mode(button.dataset.mode)));
    presets.forEach(button => button.addEventListener('click', () => window_(...button.dataset.window.split(',').map(Number))));
    ['#width', '#level'].forEach(id => one(id).addEventListener('change', () => {
      const number = name => Number(one(name).value) || 0;
      window_(Math.max(1, number('#width')), number('#level'));
    }));
    one('#opacity').addEventListener('input', event => {
      settings.opacity = event.target.value / 100;
      one('#opacity-value').textContent = `${event.target.value} %`;
      draw();
    });
    one('#zoom').addEventListener('input', event => zoom(Number(event.target.value)));
    const region = one('#roi');
    if (region) region.addEventListener('change', () => { settings.showsRegion = region.checked; draw(); });
    one('#go-worst').addEventListener('click', toWorst);
    const slots = all('[data-slot]');
    const show = () => {
      slots.forEach(box => { settings.visible[box.dataset.slot] = box.checked; });
      if (settings.voxels) { count(); draw(); }
    };
    slots.forEach(box => box.addEventListener('change', show));
    ['all', 'none'].forEach(id => one(`#${id}`).addEventListener('click', () => {
      slots.forEach(box => { box.checked = id === 'all'; });
      show();
    }));
    all('[data-go]').forEach(button => button.addEventListener('click', () => settings.voxels && goTo(Number(button.dataset.go))));
    new ResizeObserver(draw).observe(root);
    window_(400, 40);
    return open;
  }

  theme();
  boxes();
  caseTable();
  if (data.views.length) {
    const open = one('#viewer') ? viewer() : index => {
      pressed(all('.case-choice'), one(`.case-choice[data-view="${index}"]`));
      all('.case-text').forEach(text => { text.hidden = Number(text.dataset.view) !== index; });
    };
    all('.case-choice, #case-table a').forEach(link => link.addEventListener('click', () => open(Number(link.dataset.view))));
    open(Math.max(0, data.views.findIndex(view => view.planes)));
  }
})();
