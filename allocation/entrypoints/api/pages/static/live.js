"use strict";
// Keeps a page up to date: when the stream tells of something, the region #live is fetched again.
(() => {
  const PAUSE = 300; // milliseconds in which many events are one change
  const RETRY = 5000; // milliseconds, after the server refused
  const body = document.body;
  const state = document.getElementById("live-state");
  const names = [...body.dataset.events.split(" "), "reset"];
  let source = null;
  let due = false;

  function changed() {
    if (due) return;
    due = true;
    setTimeout(() => {
      due = false;
      htmx.trigger(body, "changed");
    }, PAUSE);
  }

  function say(live) {
    const text = live ? "Live: this page updates automatically." : "Not live: reconnecting.";
    if (state.textContent !== text) state.textContent = text;
    state.classList.toggle("stale", !live);
  }

  // The page could not be fetched again: it is stale, even if the stream is connected.
  for (const name of ["htmx:responseError", "htmx:sendError"]) {
    body.addEventListener(name, () => {
      say(false);
      setTimeout(changed, RETRY);
    });
  }

  function connect() {
    source = new EventSource(body.dataset.stream);
    source.onopen = () => {
      say(true);
      changed(); // whatever happened while nobody listened
    };
    source.onerror = () => {
      say(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(reconnect, RETRY);
    };
    for (const name of names) source.addEventListener(name, changed);
  }

  function reconnect() {
    if (source && source.readyState === EventSource.CLOSED && !document.hidden) connect();
  }

  // A hidden page needs no news, and leaves its place at the server to others.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source.close();
    else reconnect();
  });

  // What somebody has opened to read stays open.
  let open = [];
  body.addEventListener("htmx:beforeSwap", () => {
    open = [...document.querySelectorAll("#live details[open]")].map((each) => each.id);
  });
  body.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.successful && source.readyState === EventSource.OPEN) say(true);
  });
  body.addEventListener("htmx:afterSwap", () => {
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  });

  connect();
})();
