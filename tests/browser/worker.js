"use strict";
// The attacking page's service worker: asks for what it is told to, in both modes,
// and answers what it could see.
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("message", (event) => {
  const { url, body } = event.data;
  const answer = async () => {
    const asked = { method: "POST", body, headers: { "content-type": "text/plain" } };
    await fetch(url, { ...asked, mode: "no-cors" }).catch(() => null);
    const response = await fetch(url, asked).catch(() => null);
    return response ? `read: ${response.status} ${await response.text()}` : "blocked";
  };
  event.waitUntil(answer().then((outcome) => event.ports[0].postMessage(outcome)));
});
