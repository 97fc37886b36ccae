// The Compare tab's form under the answers, and its keys. Choices stay in the page until they are saved; what is sent has
// an id drawn before the first try, so sending again after a lost answer records once.
window.misCompare = (() => {
  const NAME = 'mis-annotator'; // shared with the tab Annotate
  const PATIENCE = 8000; // milliseconds without an answer before the person is told
  const FIELDS = 'input:not([type="checkbox"], [type="radio"]), textarea, select, [contenteditable=""], [contenteditable="true"], [role="textbox"], [role="combobox"], [role="listbox"]';

  let slot = null; // the piece of the page that holds the form
  let send = () => {};
  let active = 0; // the marked column, among the cells
  let preferences = {}; // by the variant on the right
  let changed = false; // something is chosen that is not saved
  let warned = false; // Compare was pressed once with choices that are not saved
  let last = null; // {id, body} of the latest try
  let timer = 0; // runs while an answer is awaited
  let key = ''; // of the comparison that the form is about

  const panel = () => slot?.querySelector('.mis-live');
  const isShown = () => Boolean(panel()) && slot.getClientRects().length > 0;
  const isOn = (button) => button.getAttribute('aria-pressed') === 'true';
  const cells = () => [...panel().querySelectorAll('[data-cell]')].filter((cell) => cell.querySelector('.mis-choice'));
  const cellOf = (at) => cells()[Math.min(at, cells().length - 1)];
  const nameOf = (cell) => cell.dataset.cell;
  const visible = (root, kind) => [...root.querySelectorAll(`[data-${kind}]`)].filter((button) => button.offsetParent !== null);
  const all = (root, kind) => [...root.querySelectorAll(`[data-${kind}]`)];
  const tell = (text) => { const note = panel()?.querySelector('.mis-form-note'); if (note) note.textContent = text; };
  const waiting = () => timer !== 0;

  // Of the right answer of the pair that A, B, T and N are about; the left one is always the first column.
  const rival = () => { const found = cells(); return found.length > 1 ? found[active || 1] : null; };

  const draw = () => {
    const box = panel();
    if (!box) return;
    const found = cells(), marked = cellOf(active);
    for (const cell of found) {
      const on = cell === marked;
      cell.classList.toggle('mis-is-active', on);
      document.querySelector(`#mis-results [data-variant="${CSS.escape(nameOf(cell))}"]`)?.classList.toggle('mis-is-active', on);
      const bad = all(cell, 'outcome').some((button) => isOn(button) && !box.dataset.right.split(' ').includes(button.dataset.outcome));
      cell.classList.toggle('mis-open', bad || cell.dataset.open === 'yes');
    }
    const right = rival();
    if (right) {
      for (const button of all(box, 'preference')) button.setAttribute('aria-pressed', String(preferences[nameOf(right)] === button.dataset.preference));
      const words = {a: nameOf(found[0]), b: nameOf(right)};
      for (const button of all(box, 'preference')) {
        if (words[button.dataset.preference]) button.lastChild.textContent = `${words[button.dataset.preference]} is better`;
      }
    }
    box.classList.toggle('mis-changed', changed);
  };

  const touch = () => { changed = true; warned = false; tell(''); draw(); };
  const choose = (kind, button) => {
    if (!button || waiting()) return;
    const on = !isOn(button);
    if (kind === 'preference') {
      const right = nameOf(rival());
      if (on) preferences[right] = button.dataset.preference; else delete preferences[right];
    } else if (kind === 'truth') {
      panel().dataset.truth = button.dataset.truth;
      for (const other of all(panel(), 'truth')) other.setAttribute('aria-pressed', String(other === button));
      for (const other of all(panel(), 'outcome')) other.setAttribute('aria-pressed', 'false'); // those of the other kind
    } else {
      const cell = button.closest('[data-cell]');
      active = cells().indexOf(cell);
      if (kind === 'outcome') for (const other of all(cell, 'outcome')) other.setAttribute('aria-pressed', 'false');
      button.setAttribute('aria-pressed', String(on));
    }
    touch();
  };
  const verdict = (digit) => {
    const found = visible(cellOf(active), 'outcome');
    if (!found.length) return tell('Is this request harmful (H) or harmless (L)? Choose that first.');
    choose('outcome', found.find((button) => button.dataset.key === String(digit)));
  };
  const cause = (digit) => {
    cellOf(active).dataset.open = 'yes';
    choose('cause', all(cellOf(active), 'cause')[digit - 1]);
  };
  const move = (by) => { active = (Math.min(active, cells().length - 1) + by + cells().length) % cells().length; draw(); };
  const correct = () => {
    const cell = cellOf(active);
    cell.dataset.open = 'yes';
    draw();
    cell.querySelector('textarea').focus();
  };

  const choices = () => {
    const answers = {};
    for (const cell of cells()) {
      const outcome = all(cell, 'outcome').find((button) => isOn(button));
      const causes = all(cell, 'cause').filter(isOn).map((button) => button.dataset.cause);
      const corrected = cell.querySelector('textarea').value || null;
      if (outcome || causes.length || corrected) answers[nameOf(cell)] = {outcome: outcome?.dataset.outcome ?? null, causes, corrected};
    }
    return {author: panel().querySelector('[name="author"]').value, truth: panel().dataset.truth, answers, preferences};
  };
  const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const wait = () => {
    slot.classList.add('mis-sending');
    timer = setTimeout(() => {
      settled();
      tell('No answer from the app. What you chose is kept here: press Enter to send it again; it is recorded once.');
    }, PATIENCE);
  };
  const settled = () => { clearTimeout(timer); timer = 0; slot.classList.remove('mis-sending'); };
  const save = () => {
    if (waiting() || !isShown()) return;
    const message = choices(), body = JSON.stringify([key, message]);
    last = {id: last?.body === body ? last.id : newId(), body};
    wait();
    send('record', {...message, id: last.id});
  };
  const undo = () => {
    if (waiting() || !panel().dataset.events) return;
    wait();
    send('undo', {...choices(), events: JSON.parse(panel().dataset.events)});
  };
  const dialog = () => panel()?.querySelector('.mis-keys');
  const help = () => { const box = dialog(); if (box?.open) box.close(); else box?.showModal(); };
  const draft = (button) => {
    const box = button.closest('[data-cell]').querySelector('textarea');
    box.value = button.dataset.draft;
    box.focus();
    touch();
  };

  const DO = {save, undo, help, draft};
  const better = (at) => () => { if (rival()) choose('preference', all(panel(), 'preference')[at]); };
  const truth = (at) => () => choose('truth', all(panel(), 'truth')[at]);
  const KEYS = {
    enter: save, u: undo, e: correct, '?': help, a: better(0), b: better(1), t: better(2), n: better(3), h: truth(0), l: truth(1),
    arrowleft: () => move(-1), arrowright: () => move(1),
  };
  const digitOf = (code) => Number(/^(?:Digit|Numpad)([1-9])$/.exec(code)?.[1] ?? 0);

  const isTab = () => document.querySelector('#mis-prompt')?.getClientRects().length > 0;
  const isNew = () => !document.querySelector('#mis-results .mis-columns') || document.querySelector('#mis-results.mis-stale');
  const startAnew = () => document.querySelector('#mis-compare')?.click();
  document.addEventListener('keydown', (event) => {
    if (!isTab() || event.isComposing || event.altKey || event.metaKey || document.querySelector('dialog[open]')) {
      if (event.key === '?' && dialog()?.open) { event.preventDefault(); help(); }
      return;
    }
    const writing = event.target.closest?.(FIELDS);
    if (writing) {
      if (!slot?.contains(event.target)) return;
      if (event.key === 'Escape') event.target.blur();
      if (event.key === 'Enter' && (event.ctrlKey || event.target.name === 'author')) { event.preventDefault(); event.target.blur(); if (event.ctrlKey) save(); }
      return;
    }
    if (event.ctrlKey || event.repeat) return;
    if (event.key.toLowerCase() === 'q') { event.preventDefault(); document.querySelector('#mis-question textarea')?.focus(); return; }
    const pressed = event.target.closest?.('button, a, summary, input, [role="tab"], [role="button"]');
    if (event.key === 'Enter') {
      if (pressed && pressed.ariaSelected !== 'true') return; // it presses that
      event.preventDefault();
      if (isNew() && !changed) startAnew(); else if (isShown()) save();
      return;
    }
    const digit = digitOf(event.code);
    if (!isShown() || (!digit && !(event.key.toLowerCase() in KEYS))) return;
    if (event.key.startsWith('Arrow') && event.target.closest?.('input, [role="tab"], [role="slider"]')) return; // they have a meaning there
    event.preventDefault();
    if (digit) (event.shiftKey ? cause : verdict)(digit); else KEYS[event.key.toLowerCase()]();
  });

  // After Compare the keys are the form's: the focus leaves the question, and a button that was pressed with the mouse.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.target.closest?.('#mis-question')) {
      const button = document.querySelector('#mis-compare');
      if (button && !button.disabled) setTimeout(() => event.target.blur());
    }
  }, true);
  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('#mis-compare');
    if (!button) return;
    if (changed && !warned && isShown()) { // once: what is chosen is not lost by one press
      warned = true;
      event.preventDefault();
      event.stopImmediatePropagation();
      tell('These choices are not saved yet: Enter saves them. Press Compare again to drop them.');
      return;
    }
    changed = false;
    if (event.detail > 0) button.blur();
  }, true);
  document.addEventListener('click', (event) => {
    if (event.detail > 0 && isTab()) event.target.closest?.('#mis-results [data-reveal], #mis-prompt [data-reveal]')?.blur();
  });

  const attach = (element, trigger) => {
    slot = element;
    send = trigger;
    element.addEventListener('click', (event) => {
      const button = event.target.closest('button');
      if (!button) return;
      const kind = ['outcome', 'cause', 'preference', 'truth'].find((name) => name in button.dataset);
      if (button.dataset.do) DO[button.dataset.do](button); else if (kind) choose(kind, button);
      if (event.detail > 0) button.blur(); // pressed with the mouse: Enter saves
    });
    element.addEventListener('input', (event) => {
      if (event.target.name === 'author') localStorage.setItem(NAME, event.target.value); else touch();
    });
    element.addEventListener('change', (event) => { if (event.target.name === 'author') shareName(event.target.value); });
    element.addEventListener('focusin', (event) => {
      const cell = event.target.closest('[data-cell]');
      if (cell && cells().includes(cell)) { active = cells().indexOf(cell); draw(); }
    });
    document.addEventListener('click', (event) => { // a click on an answer marks its column
      const column = event.target.closest?.('#mis-results [data-variant]');
      const at = column && panel() ? cells().findIndex((cell) => nameOf(cell) === column.dataset.variant) : -1;
      if (at >= 0) { active = at; draw(); }
    });
    refresh();
  };
  const shareName = (name) => { // the tab Annotate has a field of its own
    const box = document.querySelector('#mis-annotator :is(input, textarea)');
    if (!box || box.value === name) return;
    box.value = name;
    box.dispatchEvent(new Event('input', {bubbles: true}));
    box.dispatchEvent(new Event('blur'));
  };

  // The form was drawn again: what was recorded or taken back is in it. A new comparison begins with nothing chosen.
  const refresh = () => {
    settled();
    const box = panel();
    if (!box) { key = ''; return; }
    for (const field of box.querySelectorAll('textarea')) field.value = field.defaultValue; // Gradio leaves what was typed
    const name = box.querySelector('[name="author"]');
    if (!name.readOnly) name.value = localStorage.getItem(NAME) || name.defaultValue;
    preferences = JSON.parse(box.dataset.preferences || '{}');
    if (box.dataset.key !== key) { key = box.dataset.key; active = 0; changed = false; last = null; }
    else if (box.dataset.state) changed = box.dataset.state === 'undone';
    for (const cell of cells()) if (cell.querySelector('textarea').value) cell.dataset.open = 'yes';
    draw();
  };

  return {attach, refresh};
})();
