/* veroq.js: takes the commands that a page pushes to _veroq, keeps them until the gateway has them, and never throws
 * into the page.
 *
 *   var _veroq = _veroq || [];
 *   _veroq.push(['init', { api_key: 'API_KEY' }]);
 *
 * Read from top to bottom: settings, storage, payload, transport, commands, start. The gateway minifies this very file. */
(function () {
  "use strict";

  // What goes wrong in here is a line on the console and nothing else.
  const safely = (work) => (...given) => {
    try {
      return work(...given);
    } catch (error) {
      console.warn("veroq:", error);
    }
  };

  safely(() => {
    // A second copy of the script only hands its queue to the first.
    if (window.__vero) return window.__vero.processVeroArray(window._veroq);

    // ---- settings -------------------------------------------------------------------------------------------------

    // The gateway is where this script came from: https://shop.example/t/veroq.js makes it https://shop.example/t.
    const script =
      document.currentScript ||
      [...document.scripts].find((tag) => /\/(m|veroq[.\w]*)\.js\b/.test(tag.src)) || // a module
      { src: "" };
    const home = script.src.replace(/(\/assets\/m\.js|\/[^/]*?)([?#].*)?$/, "");
    let key, prefix, token, address, parameter;
    let consent; // false: denied, none: asked for and not given yet
    let live; // commands may be stored and sent: there is a key, and consent if it is needed

    // ---- storage --------------------------------------------------------------------------------------------------

    // Every entry is a key of its own, vq.KEY.ID: tabs add and remove theirs without ever rewriting each other's.
    // Ids are in order of time, so sorted names are the queue. A page whose storage is blocked or full uses an object.
    let disk = {};
    let session = {};
    try {
      disk = localStorage || disk;
      session = sessionStorage || session;
    } catch {}

    const write = (name, value) => {
      try {
        disk[name] = value;
      } catch {
        disk = { ...disk, [name]: value };
      }
    };
    const drop = (name) => delete disk[name];
    const names = (start) => Object.keys(disk).filter((name) => name.startsWith(start)).sort();
    const size = (text) => new Blob([text]).size;

    // Keeps the newest 500 entries and 500 KB of the last seven days.
    const trim = () => {
      let bytes = 0;
      names(prefix).reverse().forEach((name, index) => {
        bytes += size(disk[name]);
        if (index > 499 || bytes > 5e5 || name < prefix + uuid(Date.now() - 6048e5)) drop(name);
      });
    };

    // ---- payload --------------------------------------------------------------------------------------------------

    let last = 0;
    let waiting = []; // entries from before `live`
    let conversion;

    // UUIDv7 of a time in ms. Times are never used twice in a page, so its ids and times are in the order of its pushes.
    const uuid = (time) =>
      [...crypto.getRandomValues(new Uint8Array(20))]
        .reduce((hex, byte) => hex + (byte % 16).toString(16), "0" + time.toString(16))
        .replace(/(.{8})(.{4}).(.{3}).(.{3})/, "$1-$2-7$3-a$4-");

    const entry = (command) => ({
      id: uuid((last = Math.max(Date.now(), last + 1))),
      at: last,
      command,
      page: { url: location.href, referrer: document.referrer, title: document.title },
    });

    // Takes our parameters out of a URL, into `found`, and leaves every other character as it was.
    const strip = (url, found = {}) =>
      url.replace(/^([^?#]*)\?([^#]*)/, (all, path, query) => {
        const rest = query.split("&").filter((pair) => {
          const name = pair.split("=")[0];
          const ours = [parameter, "vero_conv", "conv_id"].includes(name);
          if (ours) found[name] = found[name] || decode(pair.slice(name.length + 1));
          return !ours;
        });
        return path + (rest.length ? "?" : "") + rest.join("&");
      });
    const decode = (text) => {
      try {
        return decodeURIComponent(text);
      } catch {
        return text;
      }
    };

    // ---- transport ------------------------------------------------------------------------------------------------

    let timer = 0;
    let busy;
    let failures = 0;
    let flying = []; // names of the request under way
    let beaconed = ""; // the newest name that a beacon took since the page was last seen
    let stop = () => {};

    const plan = (delay) => {
      clearTimeout(timer);
      timer = setTimeout(send, delay);
    };
    const batch = (list, count, bytes) =>
      list.filter((name, index) => index < count && ((bytes -= size(disk[name])) > 0 || !index));
    // A time ahead of `sent_at` would look like a wrong clock, hence `last`.
    const body = (list) =>
      JSON.stringify({
        key,
        sent_at: Math.max(Date.now(), last),
        device: disk[token],
        commands: list.map((name) => JSON.parse(disk[name])),
      });

    const send = () => {
      timer = 0;
      if (!live || busy) return;
      busy = true;
      if (!navigator.locks) return deliver();
      // One request under way per browser, where the browser has locks; they are refused to opaque origins. Firefox can
      // leave one with a page that is gone: after 3 s it is better to send twice than not at all.
      const patience = new AbortController();
      setTimeout(() => patience.abort(), 3e3);
      navigator.locks.request("vq", { signal: patience.signal }, deliver).catch(deliver);
    };

    const deliver = async () => {
      let count = 50;
      let asked; // seconds, from the gateway
      try {
        for (;;) {
          trim();
          // Browsers keep 64 KB alive at a time, and Firefox counts an answered request for a moment longer.
          flying = batch(names(prefix), count, 25e3);
          if (!flying[0]) break;
          const text = body(flying);
          const control = new AbortController();
          setTimeout((stop = () => control.abort()), 3e4);
          const reply = await fetch(address, {
            method: "POST",
            body: text, // a string is text/plain, which needs no preflight
            credentials: "include",
            keepalive: size(text) < 6e4,
            signal: control.signal,
          });
          const refused = /400|403|413/.test(reply.status);
          if (reply.status == 413 && flying[1]) {
            count = flying.length >> 1;
            continue;
          }
          if (!reply.ok && !refused) {
            asked = reply.headers.get("retry-after");
            throw 0;
          }
          const said = await reply.json().catch(() => ({}));
          failures = 0;
          flying.forEach(drop);
          if (refused) console.warn("veroq: refused", reply.status, said);
          else {
            // The token goes as soon as the cookie works: then the gateway no longer sends one.
            drop(token);
            if (said.device) write(token, said.device);
          }
        }
        if (consent === false) drop(token);
      } catch {
        // 1 to 2 s, then twice that, up to 5 minutes
        const delay = Math.min(15e4, 1e3 * 2 ** failures++) * (1 + Math.random());
        plan(Math.max(delay, Math.min(asked, 86400) * 1e3 || 0));
      }
      flying = [];
      busy = false;
    };

    // The page may not come back. A beacon accepted is not a beacon delivered, so entries stay until a request is
    // answered, now or on the next page; the gateway knows repeated ids.
    const leave = () => {
      const list = batch(names(prefix).filter((name) => name > beaconed && !flying.includes(name)), 500, 5e4);
      while (live && list[0] && !navigator.sendBeacon(address, body(list))) list.length >>= 1;
      beaconed = list.pop() || beaconed;
    };

    // ---- commands -------------------------------------------------------------------------------------------------

    const keep = (command) => {
      if (consent !== false && waiting.length < 500) waiting.push(entry(command));
      flush();
    };

    const flush = () => {
      // A page that nobody has seen yet, prerendered or in a background tab, says and binds nothing.
      if (!key || !consent || (!live && document.hidden)) return;
      const fresh = !live && conversion;
      live = true;
      conversion = conversion || session["vq.conv"];
      if (fresh) write("vq.conv", fresh);
      waiting.splice(0).forEach(store);
      timer || plan(10);
      if (fresh) session["vq.conv"] = fresh;
    };

    const store = (item) => {
      const { command, page } = item;
      page.url = strip(page.url);
      page.referrer = strip(page.referrer);
      // Belongs to a tab, and to nobody after a logout anywhere: Firefox gives a page from its back-forward cache the
      // session storage of before.
      if (conversion && conversion == disk["vq.conv"] && /^track/.test(command[0]))
        command[3] = { vero_conv: conversion, ...command[3] };
      write(prefix + item.id, JSON.stringify(item));
    };

    const forget = () => {
      conversion = "";
      delete session["vq.conv"];
      drop("vq.conv");
    };

    const init = (given) => {
      if (key || !(key = given.api_key || given.tracking_api_key)) return;
      if (consent == null && (given.consent || "granted") == "granted") consent = true;
      parameter = given.link_param || "vero_id";
      if (given.storage === false) disk = session = {};
      token = "vq." + key;
      prefix = token + ".";
      address = (given.endpoint || home).replace(/\/$/, "") + "/v1/commands";
      const found = {};
      const url = strip(location.href, found);
      conversion = found.vero_conv || found.conv_id;
      if ((link.command[1] = found[parameter])) waiting.splice(1, 0, link);
      if (given.cookie_domain) keep(["cookie_domain", given.cookie_domain]);
      flush();
      if (url != location.href) history.replaceState(history.state, "", url);
    };

    const take = safely((given) => {
      const callback = given[given.length - 1];
      const command = JSON.parse(JSON.stringify(given)); // as it is now: the page may go on changing its objects
      if (typeof callback == "function") {
        command.pop();
        setTimeout(callback, 0, vero, true); // its errors are the page's
      }
      const [name, value] = command;
      if (name == "init") return init(value);
      if (/^(logout|reset)$/.test(name)) forget();
      if (name == "consent" && !(consent = value == "granted")) {
        waiting = [];
        forget();
        names(live ? prefix : "vq.").forEach(drop);
        if (live) {
          store(entry(command));
          plan(0);
        }
      }
      keep(command);
    });

    // ---- start ----------------------------------------------------------------------------------------------------

    const vero = {
      // Pages splice these into the queues of other products, which call them.
      listeners: { attach_to_kissmetrics() {}, attach_to_mixpanel() {} },
      // Empties any array of commands, as often as it is called: bundled pages do so after each push.
      processVeroArray: safely((list) => {
        if (list == window._veroq) {
          list.push = (...given) => {
            given.forEach(take);
            return list.length;
          };
          list.ready = true;
        }
        while (list.length) take(list.shift());
      }),
    };

    // Context and link are older than anything the page says, also when `init` comes late.
    waiting.push(
      entry([
        "context",
        {
          language: navigator.language,
          timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
          offset: -new Date().getTimezoneOffset() / 60,
          screen: screen.width + "x" + screen.height,
          ua: navigator.userAgentData,
        },
      ]),
    );
    const link = entry(["link"]);

    window.__vero = window.Semblance = vero;
    window._veroq = window._veroq || [];
    vero.processVeroArray(window._veroq);

    // Capturing at the window also sees what happens to the document.
    const listen = (event, work) => addEventListener(event, safely(work), true);
    listen("visibilitychange", () => (document.hidden ? leave() : live ? (beaconed = "") : flush()));
    listen("pagehide", leave);
    listen("online", () => plan(0));
    // Back from the back-forward cache: a request that was under way may never be answered.
    listen("pageshow", (event) => {
      if (event.persisted) {
        stop();
        plan(0);
      }
    });
  })();
})();
