"use strict";
// Updates open pages from server-sent events and shows which action is in progress.
(() => {
  const main = document.getElementById("main");
  const problem = document.getElementById("problem");
  const REFRESH = 5000; // minimum ms between two updates of the figures

  function localTimes(root) {
    const shape = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
    for (const time of root.querySelectorAll("time")) {
      time.title = time.dateTime;
      time.textContent = new Date(time.dateTime).toLocaleString(undefined, shape);
    }
  }

  function showProblem(text) {
    problem.hidden = !text;
    problem.textContent = text;
  }

  // Replace the content of an element, but keep checked boxes, open details and the focus.
  function replace(id, html) {
    const part = document.getElementById(id);
    if (!part) return;
    const checked = new Set([...part.querySelectorAll("input:checked")].map((box) => box.value));
    const open = [...part.querySelectorAll("details")].map((details) => details.open);
    const focusable = [...part.querySelectorAll("a, button, input, summary, [tabindex]")];
    const focus = focusable.indexOf(document.activeElement);
    part.innerHTML = html;
    part.querySelectorAll("input[type=checkbox]").forEach((box) => { box.checked = checked.has(box.value); });
    part.querySelectorAll("details").forEach((details, index) => { details.open = open[index] ?? false; });
    if (focus >= 0) part.querySelectorAll("a, button, input, summary, [tabindex]")[focus]?.focus({ preventScroll: true });
    localTimes(part);
    part.dispatchEvent(new CustomEvent("sweeper:added", { bubbles: true }));
  }

  let drawn = 0, waiting = null;
  async function redraw() {
    waiting = null;
    drawn = Date.now();
    try {
      const answer = await fetch(main.dataset.page, { headers: { Accept: "text/html" } });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const figures = page.getElementById("figures");
      if (!figures) return;
      main.dataset.version = page.getElementById("main").dataset.version;
      const exports = page.querySelector(".exports");
      if (exports) document.querySelector(".exports")?.replaceWith(exports);
      replace("verdict", page.getElementById("verdict").innerHTML);
      replace("figures", figures.innerHTML);
    } catch {
      // The connection is down: the event stream reports it, and sends the next version later.
    }
  }

  function handleMessage(message) {
    const update = JSON.parse(message.data);
    showProblem(update.problem ?? "");
    for (const [id, html] of Object.entries(update.html ?? {})) replace(id, html);
    if (update.version && update.version !== main.dataset.version && waiting === null) {
      waiting = setTimeout(redraw, Math.max(0, drawn + REFRESH - Date.now()));
    }
  }

  // Browsers open at most six connections to a server, so hidden pages close theirs.
  let events = null;
  function listen() {
    if (document.hidden || events) return;
    events = new EventSource(main.dataset.live);
    events.onmessage = handleMessage;
    events.onerror = () => showProblem(events.readyState === EventSource.CLOSED
      ? "Live updates have stopped. Reload the page; you may have to sign in again."
      : "Connection lost; reconnecting…");
  }
  function stopListening() {
    events?.close();
    events = null;
  }

  function busy(event) {
    const button = event.submitter;
    if (!button?.dataset.busy) return;
    button.dataset.rest = button.textContent;
    button.textContent = button.dataset.busy;
    button.setAttribute("aria-disabled", "true");
  }

  document.addEventListener("submit", (event) => {
    if (event.submitter?.getAttribute("aria-disabled") === "true") {
      event.preventDefault(); // second click on the button
      return;
    }
    document.documentElement.classList.add("busy");
    busy(event);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    const leaves = link && !link.hasAttribute("download") && !link.getAttribute("href").startsWith("#")
      && event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    if (leaves) document.documentElement.classList.add("busy");
  });
  addEventListener("pageshow", () => { // also fires after going back to this page
    document.documentElement.classList.remove("busy");
    for (const button of document.querySelectorAll("[data-rest]")) {
      button.textContent = button.dataset.rest;
      button.removeAttribute("aria-disabled");
      delete button.dataset.rest;
    }
  });

  localTimes(document);
  document.getElementById("wrong")?.focus();
  if (main.dataset.live) {
    document.addEventListener("visibilitychange", () => (document.hidden ? stopListening() : listen()));
    addEventListener("pagehide", stopListening);
    addEventListener("pageshow", listen);
    listen();
  }
})();
