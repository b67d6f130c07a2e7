// Requests and connections to the back end: a server, or this tab (local/page.js replaces both functions).

export const transport = {
  /** Send a request, as `fetch`. */
  fetch: (url, options) => fetch(url, options),
  /** Open a connection, as `new WebSocket(url)`. */
  connect: (url) => new WebSocket(url),
};
