// What the page does without asking the server: reveal blurred images, copy, drop and paste files, drag images to
// another place, dismiss the error bar, switch between light and dark. One listener per kind of event on the document,
// because the pieces of the page are drawn again and again.
window.mis = (() => {
  const revealed = new Set(); // sources of flagged images that this person chose to see
  const DRAGGED = 'application/x-mis-place';

  let themeRestored = false;
  let waiting = false; // Compare was pressed and no answer has been drawn yet

  const setRevealed = (button, shown) => {
    button.classList.toggle('mis-shown', shown);
    button.setAttribute('aria-pressed', String(shown));
  };

  const setDark = (dark) => {
    document.body.classList.toggle('dark', dark);
    localStorage.setItem('mis-dark', dark ? '1' : '0');
  };

  // Once Gradio has set the system's choice, a person's own choice of an earlier visit wins.
  const restoreTheme = () => {
    const chosen = themeRestored ? null : localStorage.getItem('mis-dark');
    themeRestored = true;
    if (chosen !== null) setDark(chosen === '1');
  };

  // The answers are what one wants to see next; the dock with Stop sticks to the window's upper edge above them.
  const showAnswers = () => {
    waiting = false;
    const dock = document.querySelector('#mis-dock');
    const top = document.querySelector('#mis-legend').getBoundingClientRect().top;
    if (top > window.innerHeight / 2) window.scrollBy({top: top - dock.offsetHeight - 10, behavior: 'smooth'});
  };

  // Answers stay while the next prompt is made; they are marked as those to the prompt before.
  const sources = (selector) => [...document.querySelectorAll(`${selector} img`)].map((image) => image.src).join();
  const markStale = () => {
    const results = document.querySelector('#mis-results');
    const asked = results?.querySelector('.mis-recap-question');
    const question = document.querySelector('#mis-question textarea');
    const stale = Boolean(asked && question) && (
      asked.textContent.trim() !== question.value.trim() || sources('.mis-recap-images') !== sources('.mis-strip')
    );
    results?.classList.toggle('mis-stale', stale);
    const note = results?.querySelector('.mis-stale-note');
    if (note) note.hidden = !stale;
  };
  document.addEventListener('input', (event) => { if (event.target.closest?.('#mis-question')) markStale(); });

  // In the question Enter compares, Shift+Enter begins a line: as in every chat.
  const isEnterInQuestion = (event) => event.key === 'Enter' && !event.isComposing && event.target.closest?.('#mis-question');
  document.addEventListener('keypress', (event) => { // Gradio, which listens to this, has it the other way round
    if (isEnterInQuestion(event)) event.stopPropagation();
  }, true);
  document.addEventListener('keydown', (event) => {
    if (!isEnterInQuestion(event) || event.shiftKey) return;
    event.preventDefault();
    const button = document.querySelector('#mis-compare');
    if (!event.repeat && button && !button.disabled) button.click();
  }, true);

  // After a piece of the page was drawn again: what was revealed stays so, and the loaded example stays marked.
  const refresh = (root) => {
    restoreTheme();
    for (const button of root.querySelectorAll('[data-reveal]')) {
      setRevealed(button, revealed.has(button.querySelector('img').src));
    }
    if (waiting && root.querySelector('.mis-running')) showAnswers();
    requestAnimationFrame(markStale); // the question is drawn after the images
    const id = document.querySelector('[data-example]')?.dataset.example;
    for (const button of document.querySelectorAll('.mis-card [data-action="take"]')) {
      button.setAttribute('aria-pressed', String(button.dataset.id === id));
    }
    for (const card of document.querySelectorAll('.mis-card')) {
      card.classList.toggle('mis-chosen', card.querySelector('[aria-pressed="true"][data-action]') !== null);
    }
  };

  const toggleReveal = (button) => {
    const source = button.querySelector('img').src;
    if (!revealed.delete(source)) revealed.add(source);
    for (const other of document.querySelectorAll('[data-reveal]')) {
      if (other.querySelector('img').src === source) setRevealed(other, revealed.has(source));
    }
  };

  const copyText = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = Object.assign(document.createElement('textarea'), {value: text});
    document.body.append(area); // plain http from another machine: no clipboard object there
    area.select();
    document.execCommand('copy');
    area.remove();
  };

  const copy = async (button) => {
    const label = button.querySelector('span');
    await copyText(button.dataset.copy);
    label.textContent = 'Copied';
    setTimeout(() => { label.textContent = 'Copy'; }, 1500);
  };

  // Gradio's own (hidden) upload button; the prompt's column holds no other file input.
  const fileInput = () => document.querySelector('#mis-prompt input[type=file]');

  // The page shows where files may be dropped a moment before Gradio has made that input: whoever is quick must not lose a file.
  const withFileInput = (act) => {
    const input = fileInput();
    if (input) act(input);
    else setTimeout(() => withFileInput(act), 50);
  };

  const chooseFiles = () => withFileInput((input) => {
    input.accept = 'image/*'; // only a help for the dialogue: the server looks into the files
    input.click();
  });

  // A file above the limit would have Gradio refuse all files with it, without a name: an empty one of its name goes, and the server tells.
  const isTooLarge = (file) => file.size > (window.gradio_config?.max_file_size ?? Infinity);
  const sized = (file) => (isTooLarge(file) ? new File([], file.name, {type: file.type}) : file);

  // Gradio has one value for its input: files given to it one after the other in a moment may lose one, so they go together.
  const GATHER = 150; // milliseconds
  const gathered = [];
  const send = () => withFileInput((input) => {
    const box = new DataTransfer();
    for (const file of gathered.splice(0)) box.items.add(file);
    input.files = box.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  });
  const upload = (files) => {
    if (!gathered.length) setTimeout(send, GATHER);
    gathered.push(...Array.from(files, sized));
  };
  document.addEventListener('change', (event) => { // files that were chosen in the dialogue go straight to Gradio
    if (event.target !== fileInput() || ![...event.target.files].some(isTooLarge)) return;
    event.stopImmediatePropagation();
    upload(event.target.files);
  }, true);

  const download = (name, type, text) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type}));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const save = (text) => {
    const now = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
    if (text) download(`comparison-${now}.json`, 'application/json', text);
  };
  // A file that the server has made: JSON with its name, type and text.
  const saveFile = (file) => {
    if (!file) return;
    const {name, type, text} = JSON.parse(file);
    download(name, `${type};charset=utf-8`, text);
  };

  // A figure as PNG or SVG, drawn here and on white, whatever the page's ground.
  const saveFigure = (name, format) => {
    const figure = document.querySelector(`#mis-figure-${name} .js-plotly-plot`);
    if (!figure) return;
    const {width, height} = figure.getBoundingClientRect();
    const layout = {...figure.layout, paper_bgcolor: '#ffffff', font: {...figure.layout.font, color: '#334155'}};
    window.Plotly.downloadImage({data: figure.data, layout}, {format, width, height, scale: format === 'png' ? 2 : 1, filename: `mis-${name}`});
  };

  // Deep links. Each tab remembers its place; the address bar shows that of the open tab.
  const places = {};
  let openedTab = null;
  const tabOf = (place) => new URLSearchParams(place).get('tab');
  const show = (place) => {
    if (place !== window.location.search) history.replaceState(null, '', place);
  };
  const showPlace = (place) => {
    if (!place) return;
    places[tabOf(place)] = place;
    if (tabOf(place) === openedTab) show(place);
  };
  const openTab = (tab) => {
    const first = openedTab === null; // the first tab opens itself; the address may name another one
    openedTab = tab;
    if (first) return;
    const place = places[tab] ?? `?tab=${tab}`;
    if (byHand() && tabOf(window.location.search) !== tab) history.pushState(null, '', place); // Back returns to the tab before
    else show(place);
  };
  // Tabs also tell of their selection when the server or the page itself chooses them; this tells a person's choice apart.
  let tabTouched = 0;
  document.addEventListener('click', (event) => {
    if (event.target.closest?.('[role="tab"], [role="menuitem"], .overflow-menu')) tabTouched = Date.now();
  }, true);
  const byHand = () => Date.now() - tabTouched < 1500;
  const follow = () => {
    const tab = tabOf(window.location.search);
    if (tab) places[tab] = window.location.search;
    document.querySelector('#mis-go')?.click();
  };
  if (tabOf(window.location.search)) places[tabOf(window.location.search)] = window.location.search;
  window.addEventListener('popstate', () => {
    tabTouched = 0; // what follows is no choice of a tab
    follow();
  });
  document.addEventListener('click', (event) => {
    const link = event.target.closest?.('a[data-link]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // those open it elsewhere, as anywhere
    event.preventDefault();
    history.pushState(null, '', link.getAttribute('href'));
    follow();
  });

  // The first-run tour: shown until it was seen to its end or skipped, once a browser.
  const showStep = (box, at) => {
    const steps = [...box.querySelectorAll('.mis-tour-step')];
    if (at >= steps.length) {
      localStorage.setItem('mis-tour', 'done');
      box.remove();
      return;
    }
    steps.forEach((step, place) => { step.hidden = place !== at; });
    box.dataset.at = at;
    box.hidden = false;
    box.querySelector('[data-tour="next"]').textContent = at + 1 === steps.length ? 'Done' : 'Next';
  };
  const tour = (root) => {
    const box = root.querySelector('.mis-tour');
    if (box && !localStorage.getItem('mis-tour')) showStep(box, 0);
  };
  const moveTour = (button) => {
    const box = button.closest('.mis-tour');
    showStep(box, button.dataset.tour === 'skip' ? Infinity : Number(box.dataset.at) + 1);
  };

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('button');
    if (!button) return;
    if ('tour' in button.dataset) moveTour(button);
    if (button.id === 'mis-compare') waiting = true;
    if ('reveal' in button.dataset) toggleReveal(button);
    if ('copy' in button.dataset) copy(button);
    if ('figure' in button.dataset) saveFigure(button.dataset.figure, button.dataset.format);
    if ('choose' in button.dataset) chooseFiles();
    if ('hide' in button.dataset) button.closest(`.${button.dataset.hide}`).remove();
    if ('theme' in button.dataset) setDark(!document.body.classList.contains('dark'));
  });

  // Compare and its two Stops take turns in one place: the focus of the one that goes is handed to the one that comes.
  const TURNS = '#mis-compare, #mis-leave, #mis-stop';
  let held = null; // the one of them that has the focus, or had it when it went
  document.addEventListener('focusin', (event) => { held = event.target.closest?.(TURNS) ?? null; });
  document.addEventListener('focusout', (event) => setTimeout(() => { // what is being removed is told before it is gone
    if (event.target === held && held.isConnected) held = null;
  }));
  new MutationObserver(() => {
    if (held && !held.isConnected) document.querySelector(TURNS)?.focus({preventScroll: true});
  }).observe(document.documentElement, {childList: true, subtree: true});
  document.addEventListener('keydown', (event) => {
    if (event.repeat && event.target.closest?.(TURNS)) event.preventDefault(); // an Enter held down is no press on Stop
  });

  const zoneOf = (event) => event.target.closest?.('#mis-prompt');
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');

  document.addEventListener('dragstart', (event) => {
    const tile = event.target.closest?.('.mis-tile');
    if (!tile) return;
    event.dataTransfer.setData(DRAGGED, tile.dataset.index);
    event.dataTransfer.effectAllowed = 'move';
    tile.classList.add('mis-dragged');
  });
  document.addEventListener('dragend', (event) => event.target.closest?.('.mis-tile')?.classList.remove('mis-dragged'));
  document.addEventListener('dragover', (event) => {
    if (hasFiles(event)) {
      event.preventDefault(); // also outside the zone: a dropped file must not replace the page
      zoneOf(event)?.classList.add('mis-dropping');
    } else if (event.target.closest?.('.mis-tile')) {
      event.preventDefault();
    }
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget?.closest?.('#mis-prompt')) zoneOf(event)?.classList.remove('mis-dropping');
  });
  document.addEventListener('drop', (event) => {
    document.querySelector('.mis-dropping')?.classList.remove('mis-dropping');
    const tile = event.target.closest?.('.mis-tile');
    const from = event.dataTransfer.getData(DRAGGED);
    if (hasFiles(event)) {
      event.preventDefault();
      if (zoneOf(event)) upload(event.dataTransfer.files);
    } else if (tile && from !== '' && from !== tile.dataset.index) {
      event.preventDefault();
      tile.dispatchEvent(new CustomEvent('mis-move', {bubbles: true, detail: {index: from, place: tile.dataset.index}}));
    }
  });
  document.addEventListener('paste', (event) => {
    const images = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith('image/'));
    if (images.length) {
      event.preventDefault();
      upload(images);
    }
  });

  return {refresh, save, saveFile, showPlace, openTab, byHand, tour};
})();
