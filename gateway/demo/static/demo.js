/* The demo's own script: pushes what buttons say, and keeps the live panel up to date.
   It talks to the gateway like any page does, with _veroq.push; the panel's data comes from the shop's server.
   Everything shown is written with textContent: names and addresses are whatever somebody typed. */
(function () {
  'use strict';

  // -- small things

  const find = (name, root) => (root || document).querySelector('[data-' + name + ']');

  /** An element with attributes and children; strings become text nodes. */
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
  const time = (at) => make('time', { datetime: at }, at ? clock.format(new Date(at)) : '');

  // -- what this page pushed

  const pushes = find('pushes');

  /** One pushed command as a line of code. */
  function showPush(command) {
    const line = make('li', null, '_veroq.push([');
    command.forEach((part, place) => {
      if (place) line.append(', ');
      line.append(typeof part === 'string' ? make('q', null, "'" + part + "'") : pretty(part));
    });
    line.append(']);');
    pushes.append(line);
  }

  /** A value as it would be typed: { id: '42' }. */
  function pretty(value) {
    if (typeof value === 'string') return "'" + value + "'";
    if (Array.isArray(value)) return '[' + value.map(pretty).join(', ') + ']';
    if (value && typeof value === 'object') {
      return '{ ' + Object.entries(value).map(([key, each]) => key + ': ' + pretty(each)).join(', ') + ' }';
    }
    return String(value);
  }

  function push(command) {
    window._veroq.push(command);
    showPush(command);
    hurry();
  }

  // -- forms

  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (form.dataset.push) push(JSON.parse(form.dataset.push));
    if ('quiet' in form.dataset) {
      event.preventDefault();
      const button = form.querySelector('button');
      fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)), headers: { Accept: 'application/json' } })
        .then((answer) => { if (!answer.ok) throw new Error(String(answer.status)); acknowledge(button); })
        .catch(() => form.submit());
    }
    if ('fresh' in form.dataset) forget();
  });

  function acknowledge(button) {
    const label = button.dataset.label = button.dataset.label || button.textContent;
    button.textContent = 'Added ✓';
    setTimeout(() => { button.textContent = label; }, 1600);
    hurry();
  }

  /** A new browser has empty storage. The cookie is the server's to clear. */
  function forget() {
    try { localStorage.clear(); sessionStorage.clear(); } catch { /* blocked storage is empty already */ }
  }

  // -- the live panel

  let shown = '';
  let quickUntil = 0;
  let timer = 0;
  const seen = new Set();

  /** Ask often for a moment: something was just pushed. */
  function hurry() {
    quickUntil = Date.now() + 5000;
    clearTimeout(timer);
    timer = setTimeout(refresh, 120);
  }

  async function refresh() {
    clearTimeout(timer);
    if (!document.hidden) {
      try {
        const answer = await fetch('/demo/panel.json', { cache: 'no-store' });
        if (!answer.ok) throw new Error(String(answer.status));
        const text = await answer.text();
        if (text !== shown) { render(JSON.parse(text), shown !== ''); shown = text; }
        live(true);
      } catch { live(false); }
    }
    clearTimeout(timer);
    timer = setTimeout(refresh, Date.now() < quickUntil ? 250 : 900);
  }

  function live(working) {
    find('live').dataset.live = working ? 'on' : 'off';
    find('live-text').textContent = working ? 'Live from the gateway' : 'No answer; asking again';
  }

  function render(panel, again) {
    const fresh = (key) => { const isNew = again && !seen.has(key); seen.add(key); return isNew ? 'new' : null; };
    renderWho(panel.who);
    find('profile').replaceChildren(...(panel.profile ? renderProfile(panel.profile) : []));
    find('turns-section').hidden = panel.turns.length === 0;
    find('turns').replaceChildren(...panel.turns.map((turn, place) => renderTurn(turn, place === panel.turns.length - 1)));
    find('notes').replaceChildren(...panel.notes.map(renderNote));
    find('story-list').replaceChildren(...(panel.story.length ? panel.story.map((fact) => renderFact(fact, fresh('f' + fact.op_id))) : [nothing('No claims yet. The ledger is empty for this browser.')]));
    find('events').replaceChildren(...(panel.events.length ? panel.events.map((each) => renderEvent(each, fresh('e' + each.event_id))) : [nothing('Nothing yet.')]));
    count('unread', panel.unread);
    count('basket', panel.basket);
    if (panel.walk) renderWalk(panel.walk);
  }

  const nothing = (text) => make('li', { class: 'nothing' }, text);

  function renderWho(who) {
    find('who').dataset.state = who.state;
    find('title').replaceChildren(who.title, who.primary ? make('code', null, who.primary) : '');
    find('line').textContent = who.line;
    find('avatar').textContent = who.initial;
    find('peek').textContent = who.title;
    find('state', document.querySelector('.peek')).dataset.state = who.state;
  }

  function renderProfile(profile) {
    const identities = make('ul', { class: 'identities' }, ...profile.identities.map((identity) =>
      make('li', { class: identity.value === profile.primary ? 'primary' : null, 'data-proof': identity.proof },
        make('b', null, identity.value), make('span', null, identity.because))));
    const counts = make('ul', { class: 'counts' }, ...profile.counts.map((each) =>
      make('li', null, make('b', null, String(each.number)), ' ' + each.noun)));
    if (profile.server_side) counts.append(make('li', null, '+ server side'));
    const properties = make('dl', { class: 'properties' }, ...Object.entries(profile.properties).map(([key, value]) =>
      make('div', null, make('dt', null, key), make('dd', null, value))));
    return [identities, counts, properties].filter((part) => part.childNodes.length);
  }

  function renderTurn(turn, current) {
    return make('li', { 'data-state': turn.state, 'aria-current': current ? 'true' : null },
      make('b', null, turn.title), make('span', null, turn.line));
  }

  const sentence = (parts) => parts.map((part) => ('value' in part ? make('b', null, part.value) : part.text));

  function renderNote(note) {
    return make('div', { class: 'note', 'data-tone': note.tone },
      make('h4', null, note.title, note.code ? make('code', null, note.code) : null), make('p', null, ...sentence(note.sentence)));
  }

  function renderFact(fact, state) {
    const meta = make('p', { class: 'meta' }, time(fact.at), make('code', null, fact.kind + ' → ' + fact.outcome));
    if (fact.because) meta.append(make('span', null, fact.because));
    return make('li', { 'data-tone': fact.tone, class: state, 'data-outcome': fact.outcome },
      make('p', null, ...sentence(fact.sentence)), meta);
  }

  function renderEvent(event, state) {
    return make('li', { class: state }, time(event.at), make('b', null, event.name), make('span', null, event.detail),
      event.where ? make('i', { class: 'badge' }, event.where) : null);
  }

  function count(name, number) {
    const badge = find(name);
    badge.hidden = !number;
    badge.textContent = String(number);
  }

  /** Tick the steps of the story that are done. */
  function renderWalk(walk) {
    const guide = find('story');
    if (!guide || guide.dataset.story !== walk.story) return;
    const steps = [...find('steps').children];
    steps.forEach((step, place) => {
      step.dataset.state = place < walk.step ? 'done' : place === walk.step ? 'now' : 'later';
      if (place === walk.step) step.setAttribute('aria-current', 'step'); else step.removeAttribute('aria-current');
    });
    find('ending').hidden = walk.step < steps.length;
  }

  /** The pill that points to the panel is of no use beside it. */
  function hidePeekNearPanel() {
    const peek = document.querySelector('.peek');
    new IntersectionObserver(([entry]) => { peek.hidden = entry.isIntersecting; }).observe(find('panel'));
  }

  // -- start

  JSON.parse(document.body.dataset.pushed).forEach(showPush);
  for (const each of document.querySelectorAll('.mails time')) each.textContent = clock.format(new Date(each.dateTime)).slice(0, 5);
  document.addEventListener('visibilitychange', refresh);
  const tab = document.querySelector('.tabs [aria-current]');
  tab.closest('.tabs').scrollLeft = tab.offsetLeft - 40;
  hidePeekNearPanel();
  quickUntil = Date.now() + 5000;
  refresh();
})();
