// What the console does beyond plain pages: times in the reader's zone, and menus that close. Everything works without.
'use strict';

// Times are written in UTC; here they are in the reader's own zone and words.
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' });
const short = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

function tellTimes(within) {
  for (const time of within.querySelectorAll('time[datetime]')) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime()) || time.title) continue;
    time.textContent = short.format(at);
    time.title = exact.format(at);
  }
}

// A menu closes when something else is clicked, and with Escape.
function closeMenus(but) {
  for (const menu of document.querySelectorAll('details.menu[open]')) if (menu !== but) menu.open = false;
}

document.addEventListener('click', (event) => closeMenus(event.target.closest?.('details.menu')));
document.addEventListener('keydown', (event) => event.key === 'Escape' && closeMenus());
tellTimes(document);
