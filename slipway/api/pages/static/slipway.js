// Pages are whole without this file; with it they keep themselves up to date.
(() => {
  'use strict';
  const byId = (id) => document.getElementById(id);

  // Times: "3 min ago" and durations that go on. The server's clock counts, not this one's.
  let ahead = 0;
  const ago = (s) => s < 5 ? 'just now' : s < 60 ? `${Math.floor(s)} s ago`
    : s < 3600 ? `${Math.floor(s / 60)} min ago` : s < 86400 ? `${Math.floor(s / 3600)} h ago`
      : `${Math.floor(s / 86400)} d ago`;
  const took = (s) => s < 60 ? `${s.toFixed(0)} s`
    : s < 3600 ? `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`
      : `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  const tick = () => {
    for (const each of document.querySelectorAll('time[data-tick]')) {
      const past = Math.max(0, (Date.now() + ahead - Date.parse(each.dateTime)) / 1000);
      const text = each.dataset.tick === 'took' ? took(past) : ago(past);
      if (each.textContent !== text) each.textContent = text;
    }
  };
  const setClock = (now) => { ahead = Date.parse(now) - Date.now(); };
  setClock(document.body.dataset.now);
  setInterval(tick, 1000);

  // A choice that other fields depend on asks for the form again.
  for (const each of document.querySelectorAll('[data-submits]')) {
    each.addEventListener('change', () => each.form.requestSubmit());
  }

  const page = document.querySelector('[data-live]');
  if (!page) return;

  // Parts come as the server would have written them into the page; whoever is at a link or a
  // button in one stays there.
  const swap = (id, html) => {
    const part = byId(id);
    if (!part) return;
    const held = part.contains(document.activeElement) ? document.activeElement : null;
    const same = held && (held.id ? `#${CSS.escape(held.id)}`
      : held.getAttribute('href') && `a[href="${CSS.escape(held.getAttribute('href'))}"]`);
    const open = [...part.querySelectorAll('details[open]')].map((each) => each.id);
    part.innerHTML = html;
    for (const each of open) if (each && byId(each)) byId(each).open = true;
    if (same) part.querySelector(same)?.focus();
  };

  const say = (text, state) => {
    const mark = byId('live');
    mark.textContent = text;
    mark.className = `live ${state}`;
  };

  const append = (html) => {
    const box = byId('output');
    if (!box) return;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.insertAdjacentHTML('beforeend', html);
    while (box.childNodes.length > 4000) box.firstChild.remove();
    if (atEnd) box.scrollTop = box.scrollHeight;
  };

  const again = () => fetch(location.href)
    .then((answer) => answer.ok ? location.reload() : setTimeout(again, 10000))
    .catch(() => setTimeout(again, 10000));

  const follow = () => {
    const source = new EventSource(page.dataset.live);
    source.onopen = () => say('Live', 'on');
    source.addEventListener('swap', (event) => {
      const told = JSON.parse(event.data);
      setClock(told.now);
      for (const [id, html] of Object.entries(told.parts)) swap(id, html);
      tick();
    });
    source.addEventListener('title', (event) => { document.title = JSON.parse(event.data); });
    source.addEventListener('begin', (event) => swap('output-panel', JSON.parse(event.data)));
    source.addEventListener('output', (event) => append(JSON.parse(event.data)));
    // Logged out meanwhile: the page itself says so.
    source.addEventListener('over', () => { source.close(); location.reload(); });
    source.onerror = () => {
      say('Reconnecting …', 'off');
      // Refused: too many pages are open, or somebody has logged out, which the page itself says.
      if (source.readyState === EventSource.CLOSED) setTimeout(again, 10000);
    };
    addEventListener('pagehide', () => source.close(), { once: true });
  };
  const box = byId('output');
  if (box) box.scrollTop = box.scrollHeight;
  say('Connecting …', 'off');
  follow();
  addEventListener('pageshow', (event) => { if (event.persisted) location.reload(); });
})();
