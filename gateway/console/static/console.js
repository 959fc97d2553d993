// What the console does beyond plain pages: times in the reader's zone, and menus that close. Everything works without.
'use strict';

// Times are written in UTC; here they are in the reader's own zone and words.
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' });
const seconds = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const short = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

function tellTimes(within) {
  for (const time of within.querySelectorAll('time[datetime]')) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime()) || time.title) continue;
    time.textContent = (time.closest('.live') ? seconds : short).format(at);
    time.title = exact.format(at);
  }
}

// A menu closes when something else is clicked, and with Escape.
function closeMenus(but) {
  for (const menu of document.querySelectorAll('details.menu[open]')) if (menu !== but) menu.open = false;
}

document.addEventListener('click', (event) => closeMenus(event.target.closest?.('details.menu')));
document.addEventListener('keydown', (event) => event.key === 'Escape' && closeMenus());

// A part that changes, `<div id data-again="milliseconds">`, is asked for again and put in the place of what was shown.
// No markup is made from text: the browser parses the answer as a document whose scripts do not run.
function askAgain(part) {
  const next = () => setTimeout(() => askAgain(part), Number(part.dataset.again));
  if (document.hidden) return next();
  const request = new XMLHttpRequest();
  request.responseType = 'document';
  request.onerror = next;
  request.onload = () => {
    const fresh = request.status === 200 && request.response?.getElementById(part.id);
    if (!fresh) return next();
    part.replaceWith(document.adoptNode(fresh));
    part = fresh;
    tellTimes(fresh);
    if (fresh.dataset.again) next();
  };
  request.open('GET', location.href);
  request.send();
}

tellTimes(document);
for (const part of document.querySelectorAll('[data-again]')) setTimeout(() => askAgain(part), Number(part.dataset.again));
