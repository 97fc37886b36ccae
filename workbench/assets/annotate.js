// The Annotate tab's form and its keys. Choices stay in the page until Enter; what is sent has an id drawn before the first
// try, so sending again after a lost answer records once. Keys pressed while an answer is on its way are kept and played afterwards.
window.misAnnotate = (() => {
  const DRAFT = 'mis-annotate-draft', NAME = 'mis-annotator';
  const PATIENCE = 8000; // milliseconds without an answer before the person is told
  const SINGLE = ['outcome', 'severity', 'preference']; // of these one is chosen, of causes several
  const CHOICES = [...SINGLE, 'cause'];
  const FIELDS = ['comment', 'reason', 'corrected'];

  let form = null; // the piece of the page that holds the form
  let send = () => {};
  let pending = null; // {id, place, timer} of what was sent and not answered
  let last = null; // {id, body} of the latest try, for sending the same again
  let kept = []; // keys pressed meanwhile
  let trail = [], here = -1; // places that were shown, for K
  let imagesShown = false;
  let previewTimer = 0;

  const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const panel = () => form?.querySelector('.mis-form');
  const isShown = () => form !== null && form.getClientRects().length > 0;
  const field = (name) => panel()?.querySelector(`[name="${name}"]`);
  const buttons = (kind) => [...(panel()?.querySelectorAll(`[data-${kind}]`) ?? [])];
  const isOn = (button) => button.getAttribute('aria-pressed') === 'true';
  const chosen = (kind) => buttons(kind).filter(isOn).map((button) => button.dataset[kind]);
  const tell = (text) => { const note = panel()?.querySelector('.mis-form-note'); if (note) note.textContent = text; };
  const subject = () => document.querySelector('#mis-annotate-item [data-subject]');
  const dialog = () => panel()?.querySelector('.mis-keys:not(.mis-guide)');

  const press = (button) => {
    if (!button) return;
    const kind = CHOICES.find((name) => name in button.dataset);
    const on = !isOn(button);
    if (SINGLE.includes(kind)) for (const other of buttons(kind)) other.setAttribute('aria-pressed', 'false');
    button.setAttribute('aria-pressed', String(on));
    keepDraft();
  };

  // Marking: the words a person selected, else the next sentence of the response.
  const setMark = (start, end) => {
    const box = panel();
    if (!box) return;
    if (start === null) delete box.dataset.mark; else box.dataset.mark = `${start},${end}`;
    showMark();
    keepDraft();
  };
  const showMark = () => {
    const quote = panel()?.querySelector('.mis-marked q');
    if (!quote) return;
    const [start, end] = (panel().dataset.mark ?? '').split(',').map(Number);
    const sentences = [...(subject()?.querySelectorAll('.mis-sentence') ?? [])];
    const text = sentences.map((sentence) => sentence.textContent).join('');
    const first = Number(sentences[0]?.dataset.start ?? 0);
    quote.hidden = !panel().dataset.mark;
    quote.textContent = quote.hidden ? '' : [...text].slice(start - first, end - first).join('').trim();
    for (const sentence of sentences) {
      const inside = !quote.hidden && Number(sentence.dataset.start) < end && Number(sentence.dataset.end) > start;
      sentence.classList.toggle('mis-is-marked', inside);
    }
  };
  // DOM positions count UTF-16 units, Python counts characters: both are counted in characters here.
  const length = (text) => [...text].length;
  const placeOf = (node, offset) => {
    const sentence = node.parentElement?.closest('.mis-sentence');
    return sentence ? Number(sentence.dataset.start) + length(node.textContent.slice(0, offset)) : null;
  };
  const selectedMark = () => {
    const selection = window.getSelection();
    if (!selection || selection.isCollapsed || !subject()?.contains(selection.anchorNode) || !subject().contains(selection.focusNode)) return null;
    const range = selection.getRangeAt(0);
    const start = placeOf(range.startContainer, range.startOffset), end = placeOf(range.endContainer, range.endOffset);
    return start !== null && end !== null && start < end ? [start, end] : null;
  };
  const mark = () => {
    const picked = selectedMark();
    if (picked) { window.getSelection().removeAllRanges(); return setMark(...picked); }
    const sentences = [...(subject()?.querySelectorAll('.mis-sentence') ?? [])];
    const [start] = (panel().dataset.mark ?? '').split(',').map(Number);
    const following = sentences.find((sentence) => !panel().dataset.mark || Number(sentence.dataset.start) > start);
    if (!following) return setMark(null);
    const from = Number(following.dataset.start);
    setMark(from, from + length(following.textContent.trimEnd()));
  };

  const decision = () => {
    const [start, end] = (panel().dataset.mark ?? '').split(',').map(Number);
    return {
      outcome: chosen('outcome')[0] ?? null,
      causes: chosen('cause'),
      severity: chosen('severity').length ? Number(chosen('severity')[0]) : null,
      preference: chosen('preference')[0] ?? null,
      mark: panel().dataset.mark ? {start, end} : null,
      comment: field('comment').value,
      corrected: field('corrected').value || null,
    };
  };

  // Each response has a draft of its own, which outlasts other responses, a reload of the page and a restart of the app, until it is recorded.
  const draftOf = (place) => `${DRAFT} ${place}`;
  const keepDraft = () => {
    if (!panel()?.dataset.place) return;
    const draft = {decision: decision(), reason: field('reason').value, last};
    sessionStorage.setItem(draftOf(panel().dataset.place), JSON.stringify(draft));
  };
  const restoreDraft = () => {
    const draft = JSON.parse(sessionStorage.getItem(draftOf(panel().dataset.place)) ?? 'null');
    if (!draft) return;
    const {outcome, causes, severity, preference, mark: marked, comment, corrected} = draft.decision;
    const wanted = {outcome: [outcome], cause: causes, severity: [String(severity)], preference: [preference]};
    for (const kind of CHOICES) {
      for (const button of buttons(kind)) button.setAttribute('aria-pressed', String(wanted[kind].includes(button.dataset[kind])));
    }
    if (marked) panel().dataset.mark = `${marked.start},${marked.end}`; else delete panel().dataset.mark;
    Object.assign(field('comment'), {value: comment});
    Object.assign(field('corrected'), {value: corrected ?? ''});
    Object.assign(field('reason'), {value: draft.reason});
    if (FIELDS.some((name) => field(name).value)) panel().querySelector('.mis-writing').open = true;
    last = draft.last;
  };

  // Gradio draws a form over the one before and leaves in its fields what a person typed, which belongs to the response that was shown then.
  const resetFields = () => {
    for (const box of FIELDS.map(field)) if (box) box.value = box.defaultValue;
  };

  const wait = (id, place = '') => {
    const timer = setTimeout(() => {
      pending = null;
      kept = [];
      form.classList.remove('mis-sending');
      tell('No answer from the app. What you chose is kept here: press Enter to send it again; it is recorded once.');
    }, PATIENCE);
    pending = {id, place, timer};
    form.classList.add('mis-sending');
  };
  const settled = () => {
    if (pending) clearTimeout(pending.timer);
    pending = null;
    form?.classList.remove('mis-sending');
  };

  const save = () => {
    if (!panel()?.dataset.place) return;
    const message = {place: panel().dataset.place, decision: decision(), reason: field('reason').value};
    const body = JSON.stringify(message);
    const id = last?.body === body ? last.id : newId(); // the same again keeps its id, a change gets its own
    last = {id, body};
    keepDraft();
    wait(id, message.place);
    send('record', {...message, id});
  };
  const go = (by) => {
    if (by < 0 && here > 0) { here -= 1; wait(''); return send('go', {place: trail[here]}); }
    if (by > 0 && here < trail.length - 1) { here += 1; wait(''); return send('go', {place: trail[here]}); }
    wait('');
    send('go', {from: panel()?.dataset.place || null, by});
  };
  const undo = () => { const id = newId(); wait(id); send('undo', {id}); };
  const toggle = (box) => { if (box?.open) box.close(); else box?.showModal(); };
  const help = () => toggle(dialog());
  const guide = () => toggle(panel()?.querySelector('.mis-guide'));
  // The written part of the form is folded until one writes.
  const write = (name) => {
    const folded = panel()?.querySelector('.mis-writing');
    if (folded) folded.open = true;
    field(name)?.focus();
  };

  const showImages = (shown) => {
    imagesShown = shown;
    for (const button of document.querySelectorAll('#mis-annotate-item [data-reveal]')) {
      button.classList.toggle('mis-shown', shown);
      button.setAttribute('aria-pressed', String(shown));
    }
  };
  const nextSeverity = () => {
    const all = buttons('severity'), at = all.findIndex(isOn);
    if (at === all.length - 1) press(all[at]); else press(all[at + 1]);
  };
  const preview = () => {
    clearTimeout(previewTimer);
    previewTimer = setTimeout(() => send('preview', {text: field('corrected')?.value ?? ''}), 250);
  };
  const startDraft = (button) => {
    field('corrected').value = button.dataset.draft;
    field('corrected').focus();
    keepDraft();
    preview();
  };

  const DO = {
    save, undo, help, guide, mark, draft: startDraft, next: () => go(1), previous: () => go(-1),
  };
  const KEYS = {
    j: () => go(1), k: () => go(-1), u: undo, m: mark, s: nextSeverity, '?': help, g: guide, enter: save,
    v: () => showImages(!imagesShown),
    c: () => write('comment'), r: () => write('reason'), e: () => write('corrected'),
    a: () => press(buttons('preference')[0]), b: () => press(buttons('preference')[1]),
    t: () => press(buttons('preference')[2]), n: () => press(buttons('preference')[3]),
  };
  // The digit of a key wherever the layout has it; with Shift it may have produced another sign.
  const digitOf = (code) => Number(/^(?:Digit|Numpad)([1-9])$/.exec(code)?.[1] ?? 0);
  const play = ({key, code, shiftKey}) => {
    const digit = digitOf(code);
    if (digit) {
      const wanted = shiftKey ? `⇧${digit}` : String(digit);
      const button = buttons(shiftKey ? 'cause' : 'outcome').find((one) => one.dataset.key === wanted);
      if (!button) tell(`${wanted} is no label of this item: ${shiftKey ? 'causes' : 'outcomes'} have the keys shown.`);
      return press(button);
    }
    KEYS[key.toLowerCase()]?.();
  };
  const isKey = ({key, code}) => digitOf(code) > 0 || key.toLowerCase() in KEYS;

  const isField = (target) => target.closest?.('input:not([type="checkbox"], [type="radio"]), textarea, select, [contenteditable=""], [contenteditable="true"], [role="textbox"], [role="combobox"], [role="listbox"]');

  document.addEventListener('keydown', (event) => {
    if (!isShown() || event.isComposing || event.altKey || event.metaKey) return;
    const writing = isField(event.target);
    if (writing && form.contains(event.target)) {
      if (event.key === 'Escape') event.target.blur();
      if (event.key === 'Enter' && event.ctrlKey) { event.target.blur(); event.preventDefault(); if (!pending) save(); }
      return;
    }
    if (writing || event.ctrlKey || !isKey(event)) return;
    if (document.querySelector('dialog[open]') && !['?', 'g'].includes(event.key)) return;
    const pressed = event.target.closest?.('button, a, summary, [role="tab"], [role="button"]');
    if (event.key === 'Enter' && pressed && pressed.ariaSelected !== 'true') return; // it presses that; an open tab it would leave as it is
    if (event.repeat && event.key !== 'j' && event.key !== 'k') return;
    event.preventDefault();
    if (pending) kept.push({key: event.key, code: event.code, shiftKey: event.shiftKey}); else play(event);
  });

  // What the server sends while the tab is still being put together can get lost on the way; then it is asked for again.
  const askAgain = (tries = 10) => setTimeout(() => {
    const filled = panel() || document.querySelector('#mis-annotate-item .mis-empty, #mis-annotate-errors .mis-error');
    if (filled || tries === 0) return;
    if (isShown()) document.querySelector('#mis-go')?.click();
    askAgain(isShown() ? tries - 1 : tries);
  }, 3000);

  // What a judge quotes is shown where it stands in the response.
  document.addEventListener('click', (event) => {
    const button = event.target.closest('[data-cite]');
    if (!button) return;
    const at = Number(button.dataset.cite), column = button.closest('.mis-column');
    for (const sentence of column.querySelectorAll('.mis-sentence')) {
      const here = Number(sentence.dataset.start) <= at && at < Number(sentence.dataset.end);
      sentence.classList.toggle('mis-is-shown', here);
      if (here) sentence.scrollIntoView({block: 'nearest', behavior: 'smooth'});
    }
    if (event.detail > 0) button.blur(); // pressed with the mouse: Enter saves
  });

  // An image that was shown with the mouse, and Blind: Enter saves, it does not press them again.
  document.addEventListener('click', (event) => {
    if (event.detail > 0) event.target.closest?.('#mis-annotate-item [data-reveal]')?.blur();
    if (event.detail > 0) event.target.closest?.('#mis-annotate-blind input')?.blur();
  });

  // The form's piece is drawn again with every response: bound once, on the piece itself.
  const attach = (element, trigger) => {
    form = element;
    send = trigger;
    element.addEventListener('click', (event) => {
      const button = event.target.closest('button');
      if (!button || !panel()) return;
      if (button.dataset.do) { if (!pending || ['help', 'guide'].includes(button.dataset.do)) DO[button.dataset.do](button); } else if (!pending) press(button);
      if (event.detail > 0) button.blur(); // pressed with the mouse: Enter saves, it does not press it again
    });
    element.addEventListener('input', (event) => {
      keepDraft();
      if (event.target.name === 'corrected') preview();
    });
    refresh(element);
    askAgain();
  };

  // The next response begins at its beginning, wherever one had scrolled to in the last.
  const toTop = () => {
    if (!isShown()) return;
    document.querySelector('#mis-annotate-right').scrollTop = 0;
    const desk = document.querySelector('#mis-annotate');
    if (desk.getBoundingClientRect().top < 0) desk.scrollIntoView({block: 'start'});
  };

  // The form ends where the window ends, so that Save is in sight; longer ones are scrolled in their own column.
  const fit = () => {
    const column = document.querySelector('#mis-annotate-right');
    if (!column || !isShown()) return;
    const beside = window.innerWidth > 900;
    column.style.maxHeight = beside ? `${Math.max(340, window.innerHeight - Math.max(8, column.getBoundingClientRect().top) - 8)}px` : '';
  };
  window.addEventListener('scroll', fit, {passive: true, capture: true});
  window.addEventListener('resize', fit);

  // After an answer: what it acknowledges is done, the place is remembered, the keys pressed meanwhile are played.
  const refresh = () => {
    const box = panel();
    if (!box) return;
    if (pending?.id && box.dataset.ack === pending.id) { sessionStorage.removeItem(draftOf(pending.place)); last = null; }
    settled();
    resetFields();
    const place = box.dataset.place;
    if (place && trail[here] !== place) {
      trail = [...trail.slice(0, here + 1), place];
      here = trail.length - 1;
    }
    restoreDraft();
    requestAnimationFrame(() => { showImages(imagesShown); showSetFilters(); fit(); showMark(); if (place) toTop(); fit(); });
    preview();
    const keys = kept;
    kept = [];
    for (const key of keys) if (pending) kept.push(key); else play(key);
  };
  // The error bar was drawn: nothing was recorded, the form stays as it is.
  const refused = (element) => {
    if (!element.querySelector('.mis-error')) return;
    settled();
    kept = [];
  };

  // Filters behind "More": shown when asked for, and while one of them is set, as by a link.
  const UNSET = ['', 'Any', 'All', 'Nothing', 'Worst first'];
  const rest = () => document.querySelector('#mis-annotate-rest');
  const showRest = (shown) => {
    rest()?.classList.toggle('mis-open', shown);
    const button = document.querySelector('#mis-annotate-more');
    button?.setAttribute('aria-expanded', String(shown));
    button?.setAttribute('aria-controls', 'mis-annotate-rest');
  };
  const moreFilters = () => showRest(!rest()?.classList.contains('mis-open'));
  const showSetFilters = () => {
    if ([...(rest()?.querySelectorAll('input') ?? [])].some((box) => !UNSET.includes(box.value))) showRest(true);
  };

  const name = (given) => localStorage.getItem(NAME) || given;
  const keepName = (given) => { if (given) localStorage.setItem(NAME, given); };

  return {attach, refresh, refused, name, keepName, moreFilters};
})();
