// Puts in what the server sends, and sends what is typed. All HTML comes from the server, escaped.
"use strict";

const element = (id) => document.getElementById(id);

// What is shown is replaced section by section, when it has changed.

function follow() {
  const feed = element("feed");
  const source = new EventSource("/ui/live");
  source.onmessage = (message) => {
    for (const [id, html] of Object.entries(JSON.parse(message.data))) {
      const section = element(id);
      // Nothing is taken away from under a reader: a link that has the focus gets it back.
      const focused = section.contains(document.activeElement) && document.activeElement.href;
      section.innerHTML = html;
      if (focused) {
        [...section.querySelectorAll("a")].find((link) => link.href === focused)?.focus();
      }
    }
    feed.textContent = `as of ${new Date().toTimeString().slice(0, 8)}`;
    feed.parentElement.classList.remove("lost");
  };
  source.onerror = () => {
    feed.textContent = "connection lost, trying again: no news";
    feed.parentElement.classList.add("lost");
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  };
}

// Documents.

function say(text, failed = false) {
  element("answer").textContent = text;
  element("answer").classList.toggle("failed", failed);
}

// What was asked for is seen, also where it is below what the screen shows.
function reveal(id, shown) {
  element(id).hidden = !shown;
  if (shown) element(id).scrollIntoView({ block: "nearest" });
}

function show(body) {
  element("body").textContent = body;
  reveal("body", body);
}

async function call(method, path, body) {
  show("");
  element("inspected").hidden = true;
  say("…");
  try {
    const answer = await fetch(path, {
      method,
      headers: { "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    });
    return { ok: answer.ok, status: answer.status, text: await answer.text() };
  } catch {
    return { ok: false, status: 0, text: "" };
  }
}

function tell(done, answer) {
  if (answer.ok) return say(done);
  let problem = {};
  try {
    problem = JSON.parse(answer.text);
  } catch {
    problem = { detail: answer.text };
  }
  const outcome = problem.outcome === "unknown" ? " Whether it was carried out is not known." : "";
  const words = answer.status
    ? `${answer.status} ${problem.title ?? ""}: ${problem.detail ?? ""}${outcome}`
    : "This node does not answer. Whether it was carried out is not known.";
  say(words, true);
}

async function create(event) {
  event.preventDefault();
  const ttl = element("ttl").valueAsNumber;
  const body = { content: element("content").value };
  if (!Number.isNaN(ttl)) body.ttl_seconds = ttl;
  const answer = await call("POST", "/ui/documents", body);
  if (answer.ok) element("document").value = JSON.parse(answer.text).id;
  tell("Created.", answer);
}

const actions = {
  async read(id) {
    const answer = await call("GET", `/ui/documents/${id}`);
    if (answer.ok) show(JSON.stringify(JSON.parse(answer.text), null, 2));
    tell("Read.", answer);
  },
  async delete(id) {
    tell("Deleted, or never there: it is gone.", await call("DELETE", `/ui/documents/${id}`));
  },
  async inspect(id) {
    const answer = await call("GET", `/ui/inspect/${id}`);
    if (answer.ok) element("inspected").innerHTML = answer.text;
    reveal("inspected", answer.ok);
    tell("Asked all nodes.", answer);
  },
};

// Light or dark: as the system says, until it was chosen here.

function toggleTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = (root.dataset.theme ?? dark) === "dark" ? "light" : "dark";
  localStorage.setItem("stele-theme", root.dataset.theme);
}

const chosen = localStorage.getItem("stele-theme");
if (chosen) document.documentElement.dataset.theme = chosen;
element("theme").addEventListener("click", toggleTheme);
element("create").addEventListener("submit", create);
element("look").addEventListener("submit", (event) => {
  event.preventDefault();
  actions[event.submitter?.value ?? "inspect"](element("document").value);
});
follow();
