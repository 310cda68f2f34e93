// Fetches the page again and again and brings what has changed into this one.
"use strict";

const EVERY_MS = 3000;
const PATIENCE_MS = 10000;
const live = document.getElementById("live");
const alarm = document.getElementById("alarm");
const parts = ["state", "notices", "main"];
let good = new Date();
let wasGood = true;

function clock(date) {
  return date.toLocaleTimeString();
}

// Changes `old` into `fresh`, and leaves alone what is the same: focus, selection, scrolling.
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh.cloneNode(true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const mine = [...old.childNodes];
  const its = [...fresh.childNodes];
  mine.slice(its.length).forEach((node) => node.remove());
  its.forEach((node, n) => (n < mine.length ? renew(mine[n], node) : old.append(node.cloneNode(true))));
}

function say(words) {
  if (alarm.textContent !== words) alarm.textContent = words;
  alarm.hidden = words === "";
  document.getElementById("main").classList.toggle("old", words !== "");
}

async function look() {
  const answer = await fetch(location.href, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (parts.some((id) => fresh.getElementById(id) === null)) throw new Error("it answers something else");
  parts.forEach((id) => renew(document.getElementById(id), fresh.getElementById(id)));
  good = new Date();
}

async function again() {
  try {
    await look();
    say("");
    live.textContent = `Renewed every ${EVERY_MS / 1000} s; last at ${clock(good)}.`;
    if (!wasGood) document.title = document.title.replace("(old) ", "");
    wasGood = true;
  } catch (error) {
    const why = error instanceof TypeError ? "it cannot be reached" : error.message;
    say(`The centre's service has not answered since ${clock(good)} (${why}). What is below is of then.`);
    live.textContent = "";
    if (wasGood) document.title = `(old) ${document.title}`;
    wasGood = false;
  }
  setTimeout(again, EVERY_MS);
}

live.classList.remove("caution");
again();
