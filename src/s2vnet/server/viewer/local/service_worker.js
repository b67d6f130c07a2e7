// Service worker of the page without a server: keeps its files for offline use, answers every request from them, and adds
// the headers of cross-origin isolation and the content security policy, which static hosts do not send. The command that
// builds the page puts VERSION, FILES and HEADERS before this file.

const CACHE = `s2vnet-${VERSION}`;

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function install() {
  const cache = await caches.open(CACHE);
  await cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" })));
  await self.skipWaiting();
}

async function activate() {
  for (const name of await caches.keys()) if (name.startsWith("s2vnet-") && name !== CACHE) await caches.delete(name);
  await self.clients.claim();
}

/** A file of the page, without asking the network. */
async function answer(request) {
  const url = new URL(request.url);
  if (url.origin !== location.origin) return Response.error();
  if (url.pathname.endsWith("/")) url.pathname += "index.html";
  const cache = await caches.open(CACHE);
  const found = await cache.match(url, { ignoreSearch: true });
  if (!found) return new Response("not a file of this page", { status: 404 });
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(found.body, { status: found.status, headers });
}
