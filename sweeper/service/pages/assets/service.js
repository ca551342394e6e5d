"use strict";
// Keeps a page of the service up to date, and tells a person what is under way.
(() => {
  const main = document.getElementById("main");
  const problem = document.getElementById("problem");
  const REFRESH = 5000; // ms between two drawings of a page's figures at the least

  function localTimes(root) {
    const shape = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
    for (const time of root.querySelectorAll("time")) {
      time.title = time.dateTime;
      time.textContent = new Date(time.dateTime).toLocaleString(undefined, shape);
    }
  }

  function say(text) {
    problem.hidden = !text;
    problem.textContent = text;
  }

  // What a person has opened, chosen or come to with the keyboard stays as it was.
  function replace(id, html) {
    const part = document.getElementById(id);
    if (!part) return;
    const chosen = new Set([...part.querySelectorAll("input:checked")].map((box) => box.value));
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const places = [...part.querySelectorAll("a, button, input, summary, [tabindex]")];
    const focus = places.indexOf(document.activeElement);
    part.innerHTML = html;
    part.querySelectorAll("input[type=checkbox]").forEach((box) => { box.checked = chosen.has(box.value); });
    part.querySelectorAll("details").forEach((one, at) => { one.open = open[at] ?? false; });
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
      replace("figures", figures.innerHTML);
    } catch {
      // The line is down: the events say so, and bring the next version when it is back.
    }
  }

  function told(message) {
    const news = JSON.parse(message.data);
    say(news.problem ?? "");
    for (const [id, html] of Object.entries(news.html ?? {})) replace(id, html);
    if (news.version && news.version !== main.dataset.version && waiting === null) {
      waiting = setTimeout(redraw, Math.max(0, drawn + REFRESH - Date.now()));
    }
  }

  // A browser has six lines to a server: a page that nobody sees holds none.
  let events = null;
  function listen() {
    if (document.hidden || events) return;
    events = new EventSource(main.dataset.live);
    events.onmessage = told;
    events.onerror = () => say("The service does not answer; this page goes on by itself when it does.");
  }
  function rest() {
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
      event.preventDefault(); // it was pressed twice
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
  addEventListener("pageshow", () => { // also of a page that is gone back to
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
    document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
    addEventListener("pagehide", rest);
    addEventListener("pageshow", listen);
    listen();
  }
})();
