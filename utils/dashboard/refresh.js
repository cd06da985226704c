"use strict";
// Every few seconds: is anything another one? Then the page's inside is exchanged, and nothing else moves.
const EVERY = 3000;
async function refresh() {
  const main = document.querySelector("main");
  try {
    const answer = await fetch(location.href, { headers: { "If-None-Match": '"' + main.dataset.stamp + '"' }, cache: "no-store" });
    if (answer.status === 200) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      const open = new Set([...main.querySelectorAll("details[open] > summary")].map((each) => each.textContent));
      fresh.querySelectorAll("details").forEach((each) => {
        if (open.has(each.querySelector("summary").textContent)) each.open = true;
      });
      main.replaceWith(fresh);
    }
    document.title = document.title.replace(/ \(not reached\)$/, "");
  } catch (error) {
    if (!document.title.endsWith(" (not reached)")) document.title += " (not reached)";
  }
  setTimeout(refresh, EVERY);
}
setTimeout(refresh, EVERY);
